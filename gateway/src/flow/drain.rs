//! How fast requests are worked off, and so how long what waits will take.

use std::time::Duration;

/// Prompt tokens of requests that ended, per second, of late.
///
/// Sums over buckets of a second fade by half every [`HALF_LIFE`] buckets; their weight fades
/// alike, so a rate is right from the first second on.
#[derive(Debug, Default)]
pub(crate) struct DrainRate {
    /// The bucket's second.
    second: u64,
    tokens: f64,
    faded_tokens: f64,
    faded_seconds: f64,
}

/// Seconds after which what happened counts half.
const HALF_LIFE: f64 = 10.0;
/// The longest time that anybody is told to stay away.
const MOST: u32 = 600;

// === impl DrainRate ===

impl DrainRate {
    /// A request of so many tokens ended.
    pub(crate) fn done(&mut self, now: Duration, tokens: u64) {
        self.turn(now.as_secs());
        // One without tokens is work all the same.
        self.tokens += tokens.max(1) as f64;
    }

    fn turn(&mut self, second: u64) {
        if second <= self.second {
            return;
        }
        let fade = 0.5_f64.powf((second - self.second) as f64 / HALF_LIFE);
        let silent = (second - self.second - 1) as f64;
        self.faded_tokens = (self.faded_tokens + std::mem::take(&mut self.tokens)) * fade;
        self.faded_seconds = (self.faded_seconds + 1.0 + silent) * fade;
        self.second = second;
    }

    /// Whole seconds, at least one, until so many tokens are worked off.
    pub(crate) fn seconds_for(&self, now: Duration, tokens: u64) -> u32 {
        let running = now.as_secs_f64() - self.second as f64;
        let seconds = self.faded_seconds + running.clamp(0.1, HALF_LIFE);
        let rate = (self.faded_tokens + self.tokens) / seconds;
        if rate <= 0.0 {
            // Nothing is known yet.
            return 1;
        }
        // Saturates.
        ((tokens as f64 / rate).ceil() as u32).clamp(1, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_takes_as_long_as_what_ended_took() {
        let mut rate = DrainRate::default();
        assert_eq!(rate.seconds_for(Duration::ZERO, 1_000_000), 1, "nothing is known");
        for second in 0..60 {
            for _ in 0..10 {
                rate.done(Duration::from_secs(second), 100);
            }
        }
        // About 1000 tokens a second.
        let told = rate.seconds_for(Duration::from_secs(60), 30_000);
        assert!((28..=33).contains(&told), "{told}");
        assert_eq!(rate.seconds_for(Duration::from_secs(60), 0), 1);
        assert_eq!(rate.seconds_for(Duration::from_secs(60), u64::MAX), MOST);
        // When things become slower, that shows after some seconds.
        for second in 60..120 {
            rate.done(Duration::from_secs(second), 100);
        }
        let told = rate.seconds_for(Duration::from_secs(120), 3_000);
        assert!((20..=33).contains(&told), "{told}");
    }
}
