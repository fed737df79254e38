//! How many of an endpoint's sequences are not this gateway's.
//!
//! A leader tells of all that it has, and what it tells is a moment old: a request that ended here
//! is among them for a while, and one that was just sent is not. So others' are what it told of
//! beyond this gateway's own, at the least of the moments of late. With what this gateway has there
//! now, that is how many places are taken, also between two words of the leader.

use std::time::Duration;

/// See the file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others {
    /// When the latest moments began.
    since: Duration,
    /// The least of the moments before those.
    before: Option<u32>,
    /// The least of the latest.
    latest: Option<u32>,
}

/// Longer than the time between two words of a leader that has something to tell.
const MOMENTS: Duration = Duration::from_millis(200);

// === impl Others ===

impl Others {
    /// A leader tells of so many, and this gateway has so many there now; how many are others'.
    pub(crate) fn told(&mut self, now: Duration, all: u32, own: u32) -> u32 {
        let beyond = all.saturating_sub(own);
        let age = now.saturating_sub(self.since);
        if age >= MOMENTS {
            // After a long silence what was before says nothing.
            self.before = self.latest.filter(|_| age < 2 * MOMENTS);
            (self.latest, self.since) = (None, now);
        }
        let latest = self.latest.map_or(beyond, |least| least.min(beyond));
        self.latest = Some(latest);
        self.before.map_or(latest, |least| least.min(latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_ended_a_moment_ago_is_nobody_elses() {
        let mut others = Others::default();
        assert_eq!(others.told(AT(1000), 4, 4), 0);
        assert_eq!(others.told(AT(1050), 4, 3), 0, "one ended here");
        assert_eq!(others.told(AT(1250), 4, 3), 0);
        assert_eq!(others.told(AT(1300), 3, 4), 0, "one is on its way");
    }

    #[test]
    fn what_others_sent_shows_after_some_moments_and_goes_at_once() {
        let mut others = Others::default();
        others.told(AT(1000), 0, 0);
        let seen: Vec<u32> = (1..12).map(|n| others.told(AT(1000 + 50 * n), 5, 2)).collect();
        assert_eq!(seen[..3], [0; 3]);
        assert_eq!(seen[8..], [3; 3]);
        assert_eq!(others.told(AT(1600), 2, 2), 0);
        assert_eq!(others.told(AT(9000), 7, 0), 7, "nothing was heard for long");
    }
}
