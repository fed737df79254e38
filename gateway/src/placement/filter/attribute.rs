//! Keeps endpoints of which one number compares to a threshold as it should.

use super::{Filter, Mask, Query, Scene};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttributeFilter {
    pub(crate) signal: Signal,
    pub(crate) comparison: Comparison,
    pub(crate) threshold: f32,
    /// Everybody is kept if nobody would be.
    pub(crate) fallback: bool,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    GreaterThan,
    GreaterThanOrEqual,
    LessThan,
    LessThanOrEqual,
    NotEqual,
}

impl Filter for AttributeFilter {
    fn filter(&self, _: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let column = scene.column(self.signal);
        let holds = |row: usize| self.comparison.holds(column[row], self.threshold);
        if self.fallback { mask.prefer(holds) } else { mask.retain(holds) }
    }
}

impl Comparison {
    /// By the names of llm-d's configuration.
    pub(crate) const NAMES: [(&'static str, Self); 6] = [
        ("Equal", Self::Equal),
        ("GreaterThan", Self::GreaterThan),
        ("GreaterThanOrEqual", Self::GreaterThanOrEqual),
        ("LessThan", Self::LessThan),
        ("LessThanOrEqual", Self::LessThanOrEqual),
        ("NotEqual", Self::NotEqual),
    ];

    #[expect(clippy::float_cmp, reason = "equal is what was asked for")]
    fn holds(self, value: f32, threshold: f32) -> bool {
        match self {
            Self::Equal => value == threshold,
            Self::GreaterThan => value > threshold,
            Self::GreaterThanOrEqual => value >= threshold,
            Self::LessThan => value < threshold,
            Self::LessThanOrEqual => value <= threshold,
            Self::NotEqual => value != threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Busy, Candidate,
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn each_comparison_keeps_its_side() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let of = |comparison, threshold, fallback| {
            let candidates = infos.iter().enumerate().map(|(at, info)| {
                let load = Busy { running: at as u32, ..Busy::default() };
                Candidate { load, ..candidate(info) }
            });
            let filter =
                AttributeFilter { signal: Signal::Running, comparison, threshold, fallback };
            left(&filter, &query("a"), candidates)
        };
        assert_eq!(of(Comparison::LessThan, 1.0, false), [0]);
        assert_eq!(of(Comparison::LessThanOrEqual, 1.0, false), [0, 1]);
        assert_eq!(of(Comparison::Equal, 1.0, false), [1]);
        assert_eq!(of(Comparison::NotEqual, 1.0, false), [0, 2]);
        assert_eq!(of(Comparison::GreaterThan, 1.0, false), [2]);
        assert_eq!(of(Comparison::GreaterThanOrEqual, 1.0, false), [1, 2]);
        assert_eq!(of(Comparison::GreaterThan, 9.0, false), [] as [usize; 0]);
        assert_eq!(of(Comparison::GreaterThan, 9.0, true), [0, 1, 2]);
    }
}
