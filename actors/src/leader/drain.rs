//! How a leader ends without losing a request: when what it has begun is done, or its time is over.
//!
//! A request is done when its gateway has all of it, not when its last token was made: a client
//! that reads slowly may still have a part of the answer before it. So what counts is the engine's
//! requests and the doors behind which something may be on its way.

use std::time::Duration;

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    until: Duration,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Something is under way, and there is time.
    Goes,
    /// Nothing is.
    Done,
    /// Something is, and the time is over.
    Late,
}

// === impl Drain ===

impl Drain {
    /// Takes at most `time` from now on.
    pub(super) fn new(now: Duration, time: Duration) -> Self {
        Self { until: now.saturating_add(time) }
    }

    /// Asked again: the shorter time holds.
    pub(super) fn hasten(&mut self, now: Duration, time: Duration) {
        self.until = self.until.min(now.saturating_add(time));
    }

    /// With so many requests in the engine and so many open doors.
    pub(super) fn stand(&self, now: Duration, requests: usize, doors: usize) -> Stand {
        match requests + doors {
            0 => Stand::Done,
            _ if now >= self.until => Stand::Late,
            _ => Stand::Goes,
        }
    }
}

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
}
