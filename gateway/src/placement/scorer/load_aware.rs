//! Prefers short queues by their own length, whatever the others': half for an empty one, 0 from
//! the threshold on.

use super::{Query, Scene, Scorer};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadAwareScorer {
    pub(crate) threshold: f32,
}

impl Scorer for LoadAwareScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        for (score, waiting) in scores.iter_mut().zip(scene.column(Signal::Waiting)) {
            *score = 0.5 * (1.0 - waiting / self.threshold).max(0.0);
        }
    }
}
