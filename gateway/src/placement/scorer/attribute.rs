//! Prefers endpoints by one number, over a range that is given or that of the candidates.

use super::{Query, Scene, Scorer, range::bounds};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttributeScorer {
    pub(crate) signal: Signal,
    pub(crate) direction: Direction,
    /// Least and most; those of the candidates if not given.
    pub(crate) range: Option<(f32, f32)>,
}

/// Which end is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Higher,
    Lower,
}

impl Scorer for AttributeScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let column = scene.column(self.signal);
        let (least, most) = self.range.unwrap_or_else(|| bounds(column));
        let range = most - least;
        if range <= 0.0 {
            scores.fill(1.0);
            return;
        }
        for (score, number) in scores.iter_mut().zip(column) {
            let share = ((number - least) / range).clamp(0.0, 1.0);
            *score = match self.direction {
                Direction::Higher => share,
                Direction::Lower => 1.0 - share,
            };
        }
    }
}
