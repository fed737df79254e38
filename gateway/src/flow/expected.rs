//! How long one that comes now would wait for a place.
//!
//! Where all places are taken and a request holds one for so long, places come free one after
//! another in that time over their number (Little's law). That is right from the first moments of a
//! rush on; a rate of what ended of late would be that of the quiet time before. Of the places that
//! come free some go to requests that matter more and have not come yet: as many as of late.

use std::{collections::VecDeque, time::Duration};

/// See the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// How long requests held their places, of late, in seconds.
    held: Option<f64>,
    /// Priorities of those that were let in last.
    admitted: VecDeque<i32>,
}

/// Of how many requests what is known of them is the mean, about.
const OF_LATE: f64 = 16.0;
/// Of how many requests the shares of priorities are.
const SHARES_OF: usize = 64;
/// What is left to others at the least, or they would never be told a time.
const LEFT: f64 = 0.05;

// === impl Pace ===

impl Pace {
    /// One of this priority was let in.
    pub(crate) fn admitted(&mut self, priority: i32) {
        if self.admitted.len() == SHARES_OF {
            self.admitted.pop_front();
        }
        self.admitted.push_back(priority);
    }

    /// One is over that held its place for so long.
    pub(crate) fn ended(&mut self, held: Duration) {
        let held = held.as_secs_f64();
        let mean = self.held.get_or_insert(held);
        *mean += (held - *mean) / OF_LATE;
    }

    /// How long one of this priority would wait with so many before it, where so many hold places;
    /// nothing if that is not known.
    pub(crate) fn wait(&self, holders: usize, ahead: usize, priority: i32) -> Option<Duration> {
        let each = self.held? / holders.max(1) as f64;
        let more = self.admitted.iter().filter(|other| **other > priority).count();
        let share = more as f64 / self.admitted.len().max(1) as f64;
        let seconds = each * (ahead + 1) as f64 / (1.0 - share).max(LEFT);
        // What is longer than a clock can say is never.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_free_as_often_as_they_are_many() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(4, 0, 0), None, "nothing has ended");
        pace.ended(Duration::from_secs(2));
        let wait = |pace: &Pace, ahead, priority| {
            pace.wait(4, ahead, priority).expect("known").as_millis()
        };
        assert_eq!((wait(&pace, 0, 0), wait(&pace, 3, 0)), (500, 2000));
        // Half of the places go to others that come later and go first.
        (0..100).for_each(|at| pace.admitted(at % 2));
        assert_eq!((wait(&pace, 0, 1), wait(&pace, 0, 0)), (500, 1000));
        (0..SHARES_OF).for_each(|_| pace.admitted(1));
        assert_eq!(wait(&pace, 0, 0), 10_000, "never without an end");
        (0..200).for_each(|_| pace.ended(Duration::from_secs(4)));
        assert_eq!(wait(&pace, 0, 1), 999, "as of late");
    }
}
