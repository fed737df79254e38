//! Prefers endpoints that have the request's adapter, then those that can take it.
//!
//! Best is where sequences run with it already; then where its weights fit beside those that are in
//! use, so that it begins at once; then where others wait for it. A request without an adapter can
//! go anywhere. The shares are llm-d's.

use super::{Query, Scene, Scorer};
use crate::placement::Affinity;

/// See the file.
#[derive(Debug)]
pub(crate) struct LoraAffinityScorer;

impl Scorer for LoraAffinityScorer {
    fn score(&self, _query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = match row.adapter {
                Affinity::Active => 1.0,
                Affinity::Room => 0.8,
                Affinity::Waiting => 0.6,
                Affinity::NoRoom => 0.0,
            };
        }
    }
}
