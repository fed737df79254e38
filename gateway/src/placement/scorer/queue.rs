//! Prefers short queues: 1 for the shortest, 0 for the longest, a line between.

use super::{Query, Scene, Scorer, range::lower_is_better};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Debug)]
pub(crate) struct QueueScorer;

impl Scorer for QueueScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        lower_is_better(scene.column(Signal::Waiting), scores);
    }
}
