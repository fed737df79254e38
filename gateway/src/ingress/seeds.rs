//! Where the random numbers of requests without a seed of their own come from.
//!
//! A request's tokens are a function of its seed, so the gateway draws one before placement and
//! keeps it: a stream that moves goes on with the same. With `--seed` the draws repeat from start
//! to start, for requests that come one after the other.

use std::sync::atomic::{AtomicU64, Ordering};

/// A sequence of seeds.
#[derive(Debug)]
pub(crate) struct Seeds {
    state: AtomicU64,
}

impl Seeds {
    /// From a fixed start, or from the system's randomness.
    pub(crate) fn new(start: Option<u64>) -> Self {
        Self { state: AtomicU64::new(start.unwrap_or_else(rand::random)) }
    }

    /// The next: SplitMix64, every value once in 2^64.
    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_start_repeats_and_no_seed_comes_twice() {
        let draw = |start| {
            let seeds = Seeds::new(Some(start));
            (0..100).map(|_| seeds.next()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_eq!(draw(7).len(), 100);
        assert!(draw(7).is_disjoint(&draw(8)));
    }
}
