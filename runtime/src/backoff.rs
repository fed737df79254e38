//! How long to wait before trying again: exponential, with jitter, bounded.
//!
//! Pure: the wait follows from (seed, attempt), so a simulation repeats it. The jitter takes up to
//! half of each wait, so that peers which lost the same host do not return to it all at once.

use std::time::Duration;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// The spacing of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Backoff {
    /// How long to wait after attempt number `attempt` (from 0) failed: between half of
    /// `first * 2^attempt` and all of it, and never more than `longest`.
    pub fn wait(&self, seed: u64, attempt: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(doubled).min(self.longest);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(u64::from(attempt));
        // 53 bits make an even share in 0..1.
        let share = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        full.mul_f64(1.0 - share / 2.0)
    }
}

impl Default for Backoff {
    /// For peers in one cluster: a restarted process is back within a second or two.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_stay_within_their_jitter() {
        let backoff = Backoff { first: Duration::from_millis(10), longest: Duration::from_secs(1) };
        for seed in 0..50 {
            for attempt in 0..80 {
                let full = Duration::from_millis(10 << attempt.min(20)).min(backoff.longest);
                let wait = backoff.wait(seed, attempt);
                assert!(wait <= full && wait >= full / 2, "{attempt}: {wait:?} of {full:?}");
            }
        }
    }

    #[test]
    fn seeds_spread_and_repeat() {
        let backoff = Backoff::default();
        let waits: std::collections::BTreeSet<_> = (0..100).map(|s| backoff.wait(s, 3)).collect();
        assert!(waits.len() > 90, "{} different waits of 100 seeds", waits.len());
        assert_eq!(backoff.wait(7, 3), backoff.wait(7, 3));
    }
}
