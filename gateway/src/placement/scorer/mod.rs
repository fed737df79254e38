//! Who should take a request.

mod running_load;

use std::fmt::Debug;

pub(crate) use running_load::RunningLoadScorer;

use super::{Candidate, Query};

/// Compares candidates by one aspect.
pub(crate) trait Scorer: Send + Sync + Debug {
    /// As in a profile's configuration.
    fn name(&self) -> &'static str;

    /// One number per candidate, in their order, from 0 (avoid) to 1 (prefer).
    fn score(&self, query: &Query<'_>, candidates: &[Candidate<'_>]) -> Vec<f32>;
}
