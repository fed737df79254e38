//! Prefers endpoints with less to do.
//!
//! What a leader pushes is up to 50 ms old, what this gateway has in flight there is exact but only
//! a part, so the larger of both is taken. An idle endpoint scores 1, the busiest one 0.

use super::{Candidate, Query, Scorer};

/// See the file.
#[derive(Debug)]
pub(crate) struct RunningLoadScorer;

impl Scorer for RunningLoadScorer {
    fn name(&self) -> &'static str {
        "running-load-scorer"
    }

    fn score(&self, _: &Query<'_>, candidates: &[Candidate<'_>]) -> Vec<f32> {
        let busy: Vec<u32> = candidates.iter().map(work).collect();
        let most = busy.iter().copied().max().unwrap_or(0).max(1);
        busy.iter().map(|work| 1.0 - *work as f32 / most as f32).collect()
    }
}

fn work(candidate: &Candidate<'_>) -> u32 {
    candidate.load.running.saturating_add(candidate.load.waiting).max(candidate.in_flight)
}
