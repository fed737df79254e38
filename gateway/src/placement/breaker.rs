//! When an endpoint that keeps failing is left alone, and when it is tried again.
//!
//! A failure is an attempt that broke by the endpoint's doing: its connection, its protocol, its
//! silence; not that it was full. After [`TRIPS`] in a row it is left alone for a while, which
//! doubles each time; then one request may try it, and what becomes of that decides. Who has nobody
//! else is sent there all the same: a breaker moves load, it never refuses anybody.

use std::time::Duration;

/// One endpoint's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    /// Failures in a row.
    failures: u32,
    /// It is left alone until then.
    open_until: Option<Duration>,
    /// Somebody tries it; until then nobody else does.
    trying_until: Option<Duration>,
}

/// Failures in a row after which an endpoint is left alone.
pub(crate) const TRIPS: u32 = 3;
/// For how long, at first.
const FIRST_REST: Duration = Duration::from_secs(1);
/// And at most.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long one who tries it has to say how that went.
const TRIAL: Duration = Duration::from_secs(10);

// === impl Breaker ===

impl Breaker {
    /// Whether others should be taken before it.
    pub(crate) fn is_open(&self, now: Duration) -> bool {
        let not_yet = |until: Option<Duration>| until.is_some_and(|until| now < until);
        not_yet(self.open_until) || not_yet(self.trying_until)
    }

    /// Until when others should be taken before it.
    pub(crate) fn rests_until(&self) -> Duration {
        self.open_until.max(self.trying_until).unwrap_or_default()
    }

    /// A request is sent there.
    pub(crate) fn begin(&mut self, now: Duration) {
        if self.open_until.is_some() {
            self.trying_until = Some(now + TRIAL);
        }
    }

    /// It answered.
    pub(crate) fn success(&mut self) {
        *self = Self::default();
    }

    /// It broke.
    pub(crate) fn failure(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.trying_until = None;
        if self.failures >= TRIPS {
            let doubled = FIRST_REST * 2_u32.saturating_pow((self.failures - TRIPS).min(8));
            self.open_until = Some(now + doubled.min(LONGEST_REST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_tries_it_then() {
        let mut breaker = Breaker::default();
        breaker.failure(AT(0));
        breaker.failure(AT(0));
        breaker.success();
        breaker.failure(AT(0));
        breaker.failure(AT(0));
        assert!(!breaker.is_open(AT(0)), "they were not in a row");
        breaker.failure(AT(0));
        assert!(breaker.is_open(AT(999)) && !breaker.is_open(AT(1000)));
        breaker.begin(AT(1000));
        assert!(breaker.is_open(AT(1001)), "one tries it, the others wait for what he finds");
        breaker.failure(AT(1500));
        assert!(breaker.is_open(AT(3499)) && !breaker.is_open(AT(3500)), "twice as long");
        breaker.begin(AT(3500));
        breaker.success();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn who_tries_it_and_never_says_is_not_waited_for() {
        let mut breaker = Breaker::default();
        (0..TRIPS).for_each(|_| breaker.failure(AT(0)));
        breaker.begin(AT(1000));
        assert!(breaker.is_open(AT(10_999)) && !breaker.is_open(AT(11_000)));
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        let mut breaker = Breaker::default();
        (0..100).for_each(|_| breaker.failure(AT(0)));
        assert!(breaker.is_open(AT(29_999)) && !breaker.is_open(AT(30_000)));
    }
}
