//! Spreads requests that no cache knows: the endpoint that took one longest ago is first, so that
//! new prefixes grow everywhere alike. Where some cache knows the prompt, it says nothing (0.5).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{Query, Scene, Scorer};
use crate::placement::scene::{Row, Signal};

/// See the file.
#[derive(Debug)]
pub(crate) struct NoHitLruScorer {
    /// Endpoints that are remembered.
    size: usize,
    used: Mutex<Used>,
}

/// When each took a cold request, in a count of them.
#[derive(Debug, Default)]
struct Used {
    last: BTreeMap<u32, u64>,
    count: u64,
}

// === impl NoHitLruScorer ===

impl NoHitLruScorer {
    /// One that remembers so many endpoints.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, used: Mutex::default() }
    }
}

impl Scorer for NoHitLruScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        if !is_cold(scene) {
            scores.fill(0.5);
            return;
        }
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.last.is_empty() {
            scores.fill(1.0);
            return;
        }
        let last = |row: &Row<'_>| used.last.get(&row.number).copied();
        let times: Vec<Option<u64>> = scene.rows().iter().map(last).collect();
        let mut order: Vec<u64> = times.iter().flatten().copied().collect();
        order.sort_unstable();
        let never = times.len() - order.len();
        let steps = times.len().saturating_sub(1).max(1) as f32;
        for (score, time) in scores.iter_mut().zip(&times) {
            // Those that never took one are all first, then the others by their times.
            let rank = time.map_or(0, |time| never + order.partition_point(|other| *other < time));
            *score = 1.0 - rank as f32 / steps;
        }
    }

    fn chosen(&self, _: &Query<'_>, scene: &Scene<'_>, row: usize) {
        if !is_cold(scene) {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.count += 1;
        let count = used.count;
        used.last.insert(scene.rows()[row].number, count);
        if used.last.len() > self.size {
            let oldest = used.last.iter().min_by_key(|(_, count)| **count);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                used.last.remove(&oldest);
            }
        }
    }
}

fn is_cold(scene: &Scene<'_>) -> bool {
    scene.column(Signal::Matched).iter().all(|matched| *matched <= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
        scorer::tests::assert_near,
    };

    #[test]
    fn cold_requests_go_round_and_warm_ones_are_left_alone() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let scene = Scene::of(infos.iter().map(candidate));
        let scorer = NoHitLruScorer::new(2);
        let scores = || {
            let mut scores = [0.0; 3];
            scorer.score(&query("a"), &scene, &mut scores);
            scores
        };
        assert_near(&scores(), &[1.0, 1.0, 1.0]);
        scorer.chosen(&query("a"), &scene, 1);
        assert_near(&scores(), &[1.0, 0.0, 1.0]);
        scorer.chosen(&query("a"), &scene, 0);
        assert_near(&scores(), &[0.0, 0.5, 1.0]);
        scorer.chosen(&query("a"), &scene, 2);
        assert_near(&scores(), &[0.5, 1.0, 0.0]);
        let warm = infos.iter().map(|info| Candidate { matched: 16, ..candidate(info) });
        let warm = Scene::of(warm);
        let mut scores = [0.0; 3];
        scorer.score(&query("a"), &warm, &mut scores);
        assert_near(&scores, &[0.5; 3]);
    }
}
