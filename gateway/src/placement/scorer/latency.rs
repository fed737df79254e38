//! Prefers endpoints by how their expected times are to the request's objectives.
//!
//! Headroom is objective less expected time; without an objective everything is late by the whole
//! time, and so the fastest is best. Where some meet the objectives, only they are scored; by the
//! strategy, those that just meet them (so that fast ones stay free for who needs them) or those
//! with most room. Where nobody meets them: idle ones if there are any, else those that miss only
//! the time per token, else only the first token, else all; the closest first. Until anything is
//! known of the times, it is free KV, queue and cached prefix together.

use super::{Query, Scene, Scorer, range::bounds};
use crate::placement::{latency::Headroom, scene::Signal};

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatencyScorer {
    pub(crate) ttft_weight: f32,
    pub(crate) tpot_weight: f32,
    pub(crate) strategy: Strategy,
    /// Of KV, queue and prefix, while nothing is known.
    pub(crate) composite: [f32; 3],
}

/// Which of those that meet the objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Just so.
    Least,
    /// By far.
    Most,
}

/// Scores of those that are scored begin here, so that they are above those that are not.
const FLOOR: f32 = 0.01;

impl Default for LatencyScorer {
    fn default() -> Self {
        let strategy = Strategy::Least;
        Self { ttft_weight: 0.8, tpot_weight: 0.2, strategy, composite: [1.0; 3] }
    }
}

impl Scorer for LatencyScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let Some(predicted) = scene.predicted() else {
            return self.composite(query, scene, scores);
        };
        let rooms: Vec<Headroom> =
            predicted.iter().map(|predicted| predicted.headroom(query.hints)).collect();
        let active = scene.column(Signal::ActiveRequests);
        let (meets, idle) = (|row: usize| rooms[row].meets(), |row: usize| active[row] <= 0.0);
        let slow_start = |row: usize| rooms[row].ttft < 0.0;
        let slow_tokens = |row: usize| rooms[row].tpot < 0.0;
        // From what is wanted most; the first that somebody is in is scored.
        let tiers: [(&dyn Fn(usize) -> bool, Strategy); 5] = [
            (&meets, self.strategy),
            (&idle, Strategy::Least),
            (&|row| !slow_start(row), Strategy::Least),
            (&|row| !slow_tokens(row), Strategy::Least),
            (&|_| true, Strategy::Least),
        ];
        for (within, strategy) in tiers {
            let tier: Vec<usize> = (0..rooms.len()).filter(|row| within(*row)).collect();
            if !tier.is_empty() {
                return self.tier(&rooms, &tier, strategy, scores);
            }
        }
    }
}

impl LatencyScorer {
    fn tier(&self, rooms: &[Headroom], tier: &[usize], strategy: Strategy, scores: &mut [f32]) {
        let side = |of: fn(&Headroom) -> f32| -> (Vec<f32>, f32) {
            let distances: Vec<f32> = tier.iter().map(|row| of(&rooms[*row]).abs()).collect();
            let (least, most) = bounds(&distances);
            let range = most - least;
            let share = |distance: &f32| {
                if range > f32::EPSILON { (distance - least) / range } else { 0.5 }
            };
            (distances.iter().map(share).collect(), range)
        };
        let (ttft, ttft_range) = side(|room| room.ttft);
        let (tpot, tpot_range) = side(|room| room.tpot);
        let sum = self.ttft_weight + self.tpot_weight;
        let even = if sum > 0.0 { self.ttft_weight / sum } else { 0.5 };
        // What is the same everywhere says nothing, and would only press the rest together.
        let weight = match (ttft_range > f32::EPSILON, tpot_range > f32::EPSILON) {
            (false, true) => 0.0,
            (true, false) => 1.0,
            _ => even,
        };
        for (at, row) in tier.iter().enumerate() {
            let far = weight * ttft[at] + (1.0 - weight) * tpot[at];
            let wanted = if strategy == Strategy::Most { far } else { 1.0 - far };
            scores[*row] = FLOOR + (1.0 - FLOOR) * wanted;
        }
    }

    fn composite(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let sum: f32 = self.composite.iter().sum();
        let [kv, queue, prefix] =
            if sum > 0.0 { self.composite.map(|weight| weight / sum) } else { [1.0, 0.0, 0.0] };
        let waiting = scene.column(Signal::Waiting);
        let (_, most) = bounds(waiting);
        let (used, matched) = (scene.column(Signal::KvUsed), scene.column(Signal::Matched));
        let tokens = query.tokens.max(1) as f32;
        for (row, score) in scores.iter_mut().enumerate() {
            let short = if most > 0.0 { (most - waiting[row]) / most } else { 1.0 };
            let known = (matched[row] / tokens).min(1.0);
            *score = kv * (1.0 - used[row]) + queue * short + prefix * known;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ingress::hints::Hints,
        placement::{
            Busy, Candidate,
            endpoint::tests::{candidate, info, query},
            latency::Predicted,
            scorer::tests::assert_near,
        },
    };

    /// Scores of endpoints with these expected times in ms and requests there.
    fn of(strategy: Strategy, objectives: (u64, u64), rows: &[(f32, f32, u32)]) -> Vec<f32> {
        let infos: Vec<_> = (0..rows.len() as u32).map(|index| info("a", index)).collect();
        let candidates = infos
            .iter()
            .zip(rows)
            .map(|(info, row)| Candidate { in_flight: row.2, ..candidate(info) });
        let mut scene = Scene::of(candidates);
        let ms = |ms: f32| ms / 1000.0;
        let predicted = |row: &(f32, f32, u32)| Predicted { ttft: ms(row.0), tpot: ms(row.1) };
        scene.predict(rows.iter().map(predicted).collect());
        let given = |ms| (ms > 0).then(|| Duration::from_millis(ms));
        let hints = Hints { ttft: given(objectives.0), tpot: given(objectives.1), ..Hints::NONE };
        let mut scores = vec![0.0; rows.len()];
        let scorer = LatencyScorer { strategy, ..LatencyScorer::default() };
        scorer.score(&Query { hints: &hints, ..query("a") }, &scene, &mut scores);
        scores
    }

    #[test]
    fn those_that_meet_the_objectives_are_scored_by_the_strategy() {
        let rows = [(100.0, 10.0, 1), (900.0, 10.0, 1), (2000.0, 10.0, 1)];
        assert_near(&of(Strategy::Least, (1000, 50), &rows), &[0.01, 1.0, 0.0]);
        assert_near(&of(Strategy::Most, (1000, 50), &rows), &[1.0, 0.01, 0.0]);
    }

    #[test]
    fn where_nobody_meets_them_the_idle_and_the_least_late_are_first() {
        let idle = [(3000.0, 90.0, 0), (2000.0, 60.0, 1)];
        assert_near(&of(Strategy::Least, (1000, 50), &idle), &[0.505, 0.0]);
        let only_tokens = [(500.0, 60.0, 1), (2000.0, 10.0, 1)];
        assert_near(&of(Strategy::Least, (1000, 50), &only_tokens), &[0.505, 0.0]);
        let all = [(3000.0, 90.0, 1), (2000.0, 60.0, 1)];
        assert_near(&of(Strategy::Most, (1000, 50), &all), &[0.01, 1.0]);
    }

    #[test]
    fn without_an_objective_the_fastest_is_best() {
        let rows = [(300.0, 20.0, 2), (100.0, 20.0, 2), (200.0, 20.0, 2)];
        assert_near(&of(Strategy::Least, (0, 0), &rows), &[0.01, 1.0, 0.505]);
    }

    #[test]
    fn until_something_is_known_it_is_kv_queue_and_prefix() {
        let infos = [info("a", 0), info("a", 1)];
        let candidates = infos.iter().zip([(2, 50), (4, 0)]).map(|(info, (waiting, matched))| {
            let load = Busy { waiting, blocks_used: 1, blocks_total: 2, ..Busy::default() };
            Candidate { load, matched, ..candidate(info) }
        });
        let scene = Scene::of(candidates);
        let mut scores = [0.0; 2];
        LatencyScorer::default().score(&query("a"), &scene, &mut scores);
        assert_near(&scores, &[0.5, 1.0 / 6.0]);
    }
}
