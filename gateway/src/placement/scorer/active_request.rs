//! Prefers endpoints that are idle as far as this gateway knows; of the others, the less busy.

use super::{Query, Scene, Scorer, range::bounds};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveRequestScorer {
    /// Up to so many requests it is idle.
    pub(crate) idle: f32,
    /// The most that one that is not can have.
    pub(crate) most_busy_score: f32,
}

impl Scorer for ActiveRequestScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let active = scene.column(Signal::ActiveRequests);
        let (_, most) = bounds(active);
        for (score, active) in scores.iter_mut().zip(active) {
            *score = if *active <= self.idle {
                1.0
            } else {
                (most - active) / most * self.most_busy_score
            };
        }
    }
}
