//! Prefers room for KV blocks: the share of them that is free.

use super::{Query, Scene, Scorer};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Debug)]
pub(crate) struct KvCacheScorer;

impl Scorer for KvCacheScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        for (score, used) in scores.iter_mut().zip(scene.column(Signal::KvUsed)) {
            *score = 1.0 - used;
        }
    }
}
