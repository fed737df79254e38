//! Who should take a request.
//!
//! Which ones there are by name: [`super::config::table`].

mod active_request;
mod attribute;
mod context_length;
#[cfg(test)]
mod golden;
mod header_label;
mod kv_cache;
mod latency;
mod load_aware;
mod lora_affinity;
mod no_hit_lru;
mod prefix_cache;
mod queue;
mod range;
mod running;
mod session;
mod token_load;
mod topology;

use std::fmt::Debug;

pub(crate) use active_request::ActiveRequestScorer;
pub(crate) use attribute::{AttributeScorer, Direction};
pub(crate) use context_length::ContextLengthScorer;
pub(crate) use header_label::HeaderLabelScorer;
pub(crate) use kv_cache::KvCacheScorer;
pub(crate) use latency::{LatencyScorer, Strategy};
pub(crate) use load_aware::LoadAwareScorer;
pub(crate) use lora_affinity::LoraAffinityScorer;
pub(crate) use no_hit_lru::NoHitLruScorer;
pub(crate) use prefix_cache::PrefixCacheScorer;
pub(crate) use queue::QueueScorer;
pub(crate) use running::RunningScorer;
pub(crate) use session::SessionScorer;
pub(crate) use token_load::TokenLoadScorer;
pub(crate) use topology::TopologyScorer;

use super::{Query, scene::Scene};

/// Compares candidates by one aspect. It is asked once for all of them.
pub(crate) trait Scorer: Send + Sync + Debug {
    /// Writes one number per row, from 0 (avoid) to 1 (prefer); what is beyond is cut, and what is
    /// no number counts as 0. `scores` has the rows' length and zeros.
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]);

    /// The request goes to this row. For those that remember.
    fn chosen(&self, _query: &Query<'_>, _scene: &Scene<'_>, _row: usize) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::placement::Candidate;

    /// What a scorer says of these.
    pub(crate) fn scores<'a>(
        scorer: &dyn Scorer,
        query: &Query<'_>,
        candidates: impl ExactSizeIterator<Item = Candidate<'a>>,
    ) -> Vec<f32> {
        let scene = Scene::of(candidates);
        let mut scores = vec![0.0; scene.len()];
        scorer.score(query, &scene, &mut scores);
        scores
    }

    /// That numbers are these, but for rounding.
    #[track_caller]
    pub(crate) fn assert_near(actual: &[f32], expected: &[f32]) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        let same = actual.len() == expected.len() && actual.iter().zip(expected).all(near);
        assert!(same, "{actual:?} is not {expected:?}");
    }
}
