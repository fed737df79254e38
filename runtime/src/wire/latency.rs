//! How long things took, counted in buckets that grow: small enough to travel with every load, and
//! two of them, of different times, tell what lies between.

use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};

/// How many things took how long since the counting began.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// The first bucket ends at a millisecond, each further one at 1.68 times the end of the one
    /// before; what is longer is in the last.
    pub counts: [u32; BUCKETS],
}

impl Latencies {
    /// Counts things that took so long each.
    pub fn add(&mut self, time: Duration, things: u32) {
        let bucket = ENDS_US.iter().position(|end| time.as_micros() <= u128::from(*end));
        let count = &mut self.counts[bucket.unwrap_or(BUCKETS - 1)];
        *count = count.saturating_add(things);
    }

    /// What was counted since an earlier moment of the same counting.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        Self { counts }
    }

    /// What two counted together.
    pub fn with(&self, other: &Self) -> Self {
        let mut counts = self.counts;
        for (count, more) in counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        Self { counts }
    }

    /// The time within which so many of a hundred were done, by a line through its bucket; nothing
    /// if nothing was counted.
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let all: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let rank = (all * u64::from(percent)).div_ceil(100);
        let mut below = 0;
        let mut start = 0;
        for (count, end) in self.counts.iter().zip(ENDS_US) {
            let count = u64::from(*count);
            if count > 0 && below + count >= rank {
                let within = (end - start) * rank.saturating_sub(below).max(1) / count;
                return Some(Duration::from_micros(start + within));
            }
            below += count;
            start = end;
        }
        None
    }
}

/// From a millisecond to two and a half minutes.
const BUCKETS: usize = 24;

/// Where buckets end, in microseconds: two to the three quarters times the one before.
const ENDS_US: [u64; BUCKETS] = [
    1_000,
    1_682,
    2_828,
    4_757,
    8_000,
    13_454,
    22_627,
    38_055,
    64_000,
    107_635,
    181_019,
    304_437,
    512_000,
    861_079,
    1_448_155,
    2_435_496,
    4_096_000,
    6_888_630,
    11_585_238,
    19_483_971,
    32_768_000,
    55_109_037,
    92_681_900,
    155_871_768,
];

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_percentile_is_within_the_bucket_of_what_took_so_long() {
        let mut counted = Latencies::default();
        assert_eq!(counted.percentile(90), None);
        counted.add(MS(10), 90);
        counted.add(MS(700), 10);
        let near = |percent, low, high| {
            let time = counted.percentile(percent).expect("something was counted");
            assert!(MS(low) < time && time <= MS(high), "{percent}: {time:?}");
        };
        near(50, 8, 14);
        near(90, 13, 14);
        near(91, 512, 862);
        near(99, 512, 862);
    }

    #[test]
    fn what_is_longer_than_all_is_in_the_last_bucket() {
        let mut counted = Latencies::default();
        counted.add(MS(1_000_000), 1);
        assert!(counted.percentile(99).is_some_and(|time| time > MS(92_000)));
    }

    #[test]
    fn two_moments_tell_what_lies_between() {
        let mut earlier = Latencies::default();
        earlier.add(MS(5000), 10);
        let mut later = earlier;
        later.add(MS(2), 3);
        let between = later.since(&earlier);
        assert!(between.percentile(99).is_some_and(|time| time < MS(3)));
        assert_eq!(earlier.with(&between), later);
    }
}
