//! How a leader ends without losing a request: when what it has begun is done, or its time is over.
//!
//! A request is done when its gateway has all of it, not when its last token was made: a client
//! that reads slowly may still have a part of the answer before it. So what counts is the engine's
//! requests and the doors behind which something may be on its way. What will not be done in time
//! moves while there is some left: its gateway places it elsewhere, and there its KV is fetched
//! from here, for which the group stays a little longer than it has requests.

use std::time::Duration;

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    until: Duration,
    /// When what is left moves; none once it has.
    moves_at: Option<Duration>,
    /// Until when what has moved may still be fetched.
    stays_until: Duration,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Something is under way, and there is time.
    Goes,
    /// Something is, and it is time that it goes on elsewhere.
    Moves,
    /// Nothing is.
    Done,
    /// Something is, and the time is over.
    Late,
}

// === impl Drain ===

impl Drain {
    /// Takes at most `time` from now on.
    pub fn new(now: Duration, time: Duration) -> Self {
        let until = now.saturating_add(time);
        Self { until, moves_at: Some(moves_at(until, time)), stays_until: Duration::ZERO }
    }

    /// Asked again: the shorter time holds.
    pub fn hasten(&mut self, now: Duration, time: Duration) {
        self.until = self.until.min(now.saturating_add(time));
        let sooner = moves_at(now.saturating_add(time), time);
        self.moves_at = self.moves_at.map(|at| at.min(sooner));
    }

    /// With so many requests in the engine and so many open doors.
    pub fn stand(&mut self, now: Duration, requests: usize, doors: usize) -> Stand {
        let idle = requests + doors == 0;
        match idle {
            true if now >= self.stays_until.min(self.until) => Stand::Done,
            false if now >= self.until => Stand::Late,
            false if self.moves_at.take_if(|at| now >= *at).is_some() => {
                self.stays_until = now + self.until.saturating_sub(now) / 2;
                Stand::Moves
            }
            _ => Stand::Goes,
        }
    }
}

/// A quarter of the time is for moving, and more than some seconds are not needed for it.
fn moves_at(until: Duration, time: Duration) -> Duration {
    until - (time / 4).min(MOVING)
}

const MOVING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_when_the_last_answer_is_out_and_late_when_its_time_is_over() {
        let at = Duration::from_secs;
        let mut drain = Drain::new(at(10), at(60));
        assert_eq!(drain.stand(at(10), 1, 1), Stand::Goes);
        assert_eq!(drain.stand(at(11), 0, 1), Stand::Goes, "an answer is on its way");
        assert_eq!(drain.stand(at(11), 0, 0), Stand::Done);
        assert_eq!(drain.stand(at(70), 1, 1), Stand::Late);
        drain.hasten(at(20), at(5));
        drain.hasten(at(20), at(500));
        assert_eq!(drain.stand(at(25), 0, 1), Stand::Late);
        assert_eq!(drain.stand(at(25), 0, 0), Stand::Done);
        assert_eq!(Drain::new(at(1), Duration::MAX).stand(at(99), 1, 0), Stand::Goes);
    }

    #[test]
    fn what_would_not_be_done_moves_once_while_there_is_time() {
        let at = Duration::from_secs;
        let mut drain = Drain::new(at(10), at(60));
        assert_eq!(drain.stand(at(64), 1, 0), Stand::Goes);
        assert_eq!(drain.stand(at(65), 1, 0), Stand::Moves);
        assert_eq!(drain.stand(at(66), 1, 0), Stand::Goes, "it has moved, or does");
        assert_eq!(drain.stand(at(67), 0, 0), Stand::Goes, "somebody may come for it");
        let mut fetched = drain;
        assert_eq!(fetched.stand(at(68), 0, 0), Stand::Done);
        assert_eq!(drain.stand(at(70), 1, 0), Stand::Late);
        let mut short = Drain::new(at(10), at(600));
        short.hasten(at(20), at(4));
        assert_eq!(short.stand(at(22), 1, 0), Stand::Goes);
        assert_eq!(short.stand(at(23), 1, 0), Stand::Moves, "a quarter is left");
        assert_eq!(Drain::new(at(10), at(0)).stand(at(10), 1, 0), Stand::Late);
    }
}
