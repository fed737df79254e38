//! What a core is given as time, so that it never asks for it.
//!
//! A core gets a [`Now`] with each event: how long this process runs, for waits and deadlines, and
//! the time of day, for what people read. The first only grows, the second can jump. The edge makes
//! it with a [`Clock`]; a simulation makes it from its own queue.

use std::{
    ops::Add,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// A moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now {
    /// Since the clock was made; never goes back. For every comparison and every deadline.
    pub since_start: Duration,
    /// Milliseconds since 1970 as this host believes; for people and for records only.
    pub unix_millis: u64,
}

/// The edge's source of [`Now`]. It follows tokio's clock, so a paused test pauses it too.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_unix: Duration,
}

/// A length of time as a person says it: in its largest unit that it has two of.
pub fn approximately(length: Duration) -> String {
    let seconds = length.as_secs();
    for (name, unit) in [("days", 24 * 3600), ("h", 3600), ("min", 60)] {
        if seconds >= 2 * unit {
            return format!("{} {name}", (seconds + unit / 2) / unit);
        }
    }
    format!("{seconds} s")
}

// === impl Now ===

impl Now {
    /// How long ago an earlier moment was; zero if it was not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.since_start.saturating_sub(earlier.since_start)
    }

    /// Whether a deadline, as a time since start, has come.
    pub fn has_reached(self, deadline: Duration) -> bool {
        self.since_start >= deadline
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self { since_start: self.since_start + wait, unix_millis: self.unix_millis + millis(wait) }
    }
}

// === impl Clock ===

impl Clock {
    /// A clock that begins now. One per process: moments of two clocks cannot be compared.
    pub fn start() -> Self {
        // A host whose clock says a time before 1970 has none; its records then say 1970.
        let origin_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_unix }
    }

    /// The moment.
    pub fn now(&self) -> Now {
        let since_start = self.origin.elapsed();
        // Counted from the start's time of day: a host's clock that is set back meanwhile does not
        // make records go back.
        Now { since_start, unix_millis: millis(self.origin_unix + since_start) }
    }

    /// When tokio's timers are to fire for a time since start.
    pub fn instant(&self, since_start: Duration) -> Instant {
        self.origin + since_start
    }
}

/// A time of day as people and Kubernetes' documents write it: `2026-02-03T04:05:06Z`.
pub fn rfc3339(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    // Times past the year 9999 come from broken clocks; they are shown as that year's end.
    let time = OffsetDateTime::from_unix_timestamp(seconds.min(LAST_SECOND));
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Seconds since 1970 of such a time; `None` if it is no time, or before 1970.
pub fn from_rfc3339(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    time.unix_timestamp().try_into().ok()
}

/// The end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_follows_tokio_and_both_times_go_on_together() {
        let clock = Clock::start();
        let before = clock.now();
        let wait = Duration::from_millis(1500);
        tokio::time::sleep_until(clock.instant(before.since_start + wait)).await;
        let after = clock.now();
        assert_eq!(after, before + wait);
        assert_eq!(after.since(before), wait);
        assert_eq!(before.since(after), Duration::ZERO);
        assert!(after.has_reached(wait) && !before.has_reached(wait));
    }

    #[test]
    fn a_time_of_day_is_written_and_read_as_kubernetes_does() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_770_091_506), "2026-02-03T04:05:06Z");
        assert_eq!(from_rfc3339("2026-02-03T04:05:06Z"), Some(1_770_091_506));
        assert_eq!(from_rfc3339("2026-02-03T05:05:06.5+01:00"), Some(1_770_091_506));
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
        for nonsense in ["", "yesterday", "2026-02-03", "1969-12-31T23:59:59Z"] {
            assert_eq!(from_rfc3339(nonsense), None, "{nonsense}");
        }
    }
}
