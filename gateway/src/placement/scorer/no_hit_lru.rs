//! Spreads requests that no cache knows: the endpoint that took one longest ago is first, so that
//! new prefixes grow everywhere alike. Where some cache knows the prompt, it says nothing (0.5).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{Query, Scene, Scorer};
use crate::placement::scene::Row;

/// See the file.
#[derive(Debug)]
pub(crate) struct NoHitLruScorer {
    /// Endpoints that are remembered.
    size: usize,
    used: Mutex<Used>,
}

/// When each took a cold request, in a count of them: by endpoint, and the same by time.
#[derive(Debug, Default)]
struct Used {
    last: BTreeMap<u32, u64>,
    order: BTreeMap<u64, u32>,
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
        if !scene.is_cold() {
            scores.fill(0.5);
            return;
        }
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.last.is_empty() {
            scores.fill(1.0);
            return;
        }
        // Those that never took one are all first, then the others by their times.
        scores.fill(1.0);
        let rows = Places::of(scene.rows());
        let known: Vec<usize> = used.order.values().filter_map(|it| rows.find(*it)).collect();
        let never = scores.len() - known.len();
        let steps = scores.len().saturating_sub(1).max(1) as f32;
        for (rank, row) in (never..).zip(known) {
            scores[row] = 1.0 - rank as f32 / steps;
        }
    }

    fn chosen(&self, _: &Query<'_>, scene: &Scene<'_>, row: usize) {
        if !scene.is_cold() {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.count += 1;
        let (number, count) = (scene.rows()[row].number, used.count);
        if let Some(before) = used.last.insert(number, count) {
            used.order.remove(&before);
        }
        used.order.insert(count, number);
        if used.last.len() > self.size
            && let Some((_, oldest)) = used.order.pop_first()
        {
            used.last.remove(&oldest);
        }
    }
}

/// Finds a row by its endpoint's number, of which there are few more than endpoints.
enum Places {
    /// Their rows and one, from the least number on; 0 where there is none.
    Close { least: u32, rows: Vec<u32> },
    /// Numbers lie far apart, after many endpoints have come and gone.
    Apart(BTreeMap<u32, usize>),
}

impl Places {
    fn of(rows: &[Row<'_>]) -> Self {
        let numbers = || rows.iter().map(|row| row.number);
        let least = numbers().min().unwrap_or_default();
        let span = (numbers().max().unwrap_or_default() - least) as usize;
        if span > 8 * rows.len() + CLOSE {
            return Self::Apart(numbers().zip(0..).collect());
        }
        let mut places = vec![0; span + 1];
        for (number, place) in numbers().zip(1..) {
            places[(number - least) as usize] = place;
        }
        Self::Close { least, rows: places }
    }

    fn find(&self, number: u32) -> Option<usize> {
        match self {
            Self::Close { least, rows } => {
                let place = *rows.get(number.checked_sub(*least)? as usize)?;
                (place as usize).checked_sub(1)
            }
            Self::Apart(rows) => rows.get(&number).copied(),
        }
    }
}

/// A table of so many places costs nothing.
const CLOSE: usize = 1 << 10;

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
        // Numbers may lie anywhere, and those of others are known too.
        let far = [info("a", 0), info("a", 1 << 30), info("a", 7)];
        let far_scene = Scene::of(far.iter().map(candidate));
        let mut scores = [0.0; 3];
        scorer.score(&query("a"), &far_scene, &mut scores);
        assert_near(&scores, &[0.0, 1.0, 1.0]);
        let warm = infos.iter().map(|info| Candidate { matched: 16, ..candidate(info) });
        let warm = Scene::of(warm);
        let mut scores = [0.0; 3];
        scorer.score(&query("a"), &warm, &mut scores);
        assert_near(&scores, &[0.5; 3]);
    }
}
