//! Prefers few running sequences: 1 for the fewest, 0 for the most, a line between.

use super::{Query, Scene, Scorer, range::lower_is_better};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Debug)]
pub(crate) struct RunningScorer;

impl Scorer for RunningScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        lower_is_better(scene.column(Signal::Running), scores);
    }
}
