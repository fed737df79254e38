//! Prefers endpoints with few tokens left to compute, by a threshold that all share.

use super::{Query, Scene, Scorer};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenLoadScorer {
    pub(crate) threshold: f32,
}

impl Scorer for TokenLoadScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        for (score, tokens) in scores.iter_mut().zip(scene.column(Signal::InFlightTokens)) {
            *score = 1.0 - (tokens / self.threshold).min(1.0);
        }
    }
}
