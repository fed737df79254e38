//! A list of plug-ins with their weights, and how they are run.

use std::sync::Arc;

use super::{
    Query,
    dice::Dice,
    filter::{Filter, Mask},
    picker::Picker,
    scene::Scene,
    scorer::Scorer,
};

/// Filters, then weighted scorers, then one picker.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) name: Arc<str>,
    pub(crate) filters: Vec<(Arc<str>, Arc<dyn Filter>)>,
    pub(crate) scorers: Vec<(Arc<str>, Arc<dyn Scorer>, f32)>,
    pub(crate) picker: (Arc<str>, Arc<dyn Picker>),
}

/// How a profile decided; rows are places among all candidates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// The candidate to use, if any will do.
    pub(crate) picked: Option<usize>,
    /// How many each filter dropped, in their order.
    pub(crate) dropped: Vec<u32>,
    /// Some of whom they dropped, and which filter, counted from 0.
    pub(crate) examples: Vec<(usize, usize)>,
    /// The best, in order; the picked one is among them.
    pub(crate) best: Vec<Scored>,
    /// What each scorer said of the first of these, then of the next.
    scores: Vec<f32>,
}

/// One that could be picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) row: usize,
    pub(crate) total: f32,
}

/// Of the best, and of the dropped, that a verdict tells of.
const TOLD: usize = 8;
/// Totals that are compared at once.
const AT_A_TIME: usize = 16;
/// Of the picker's dice.
const SALT: u64 = 0x91c;

// === impl Verdict ===

impl Verdict {
    /// The best, each with what the scorers said of it.
    pub(crate) fn scored(&self) -> impl Iterator<Item = (Scored, &[f32])> {
        let scorers = self.scores.len().checked_div(self.best.len()).unwrap_or(0);
        let scores = move |at: usize| &self.scores[at * scorers..][..scorers];
        self.best.iter().enumerate().map(move |(at, best)| (*best, scores(at)))
    }

    /// The candidates that it tells of.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> {
        let best = self.best.iter().map(|scored| scored.row);
        best.chain(self.examples.iter().map(|(row, _)| *row))
    }
}

// === impl Profile ===

impl Profile {
    /// Which of the candidates to use. Drops the others of the scene that cannot be used.
    pub(crate) fn place(&self, query: &Query<'_>, scene: &mut Scene<'_>) -> Verdict {
        let mut verdict = self.filter(query, scene);
        if scene.len() == 0 {
            return verdict;
        }
        let rows = scene.len();
        let mut totals = vec![0.0; rows];
        let mut all = vec![0.0; rows * self.scorers.len()];
        for ((_, scorer, weight), scores) in self.scorers.iter().zip(all.chunks_exact_mut(rows)) {
            scorer.score(query, scene, scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                // Of a number and none, `max` takes the number.
                *score = if *score > 1.0 { 1.0 } else { score.max(0.0) };
                *total += *weight * *score;
            }
        }
        let mut dice = Dice::new(query.request, SALT);
        let Some(picked) = self.picker.1.pick(&totals, &mut dice) else { return verdict };
        for (_, filter) in &self.filters {
            filter.chosen(query, scene, picked);
        }
        for (_, scorer, _) in &self.scorers {
            scorer.chosen(query, scene, picked);
        }
        let told = |row: &usize| Scored { row: scene.rows()[*row].at, total: totals[*row] };
        let scores = |row: &usize| {
            let row = *row;
            all.chunks_exact(rows).map(move |scores| scores[row])
        };
        let best = best(&totals, picked);
        verdict.picked = Some(scene.rows()[picked].at);
        verdict.best = best.iter().map(told).collect();
        verdict.scores = Vec::with_capacity(best.len() * self.scorers.len());
        verdict.scores.extend(best.iter().flat_map(scores));
        verdict
    }

    /// Whether one of its filters says who computes prompts for others.
    pub(crate) fn says_who_helps(&self) -> bool {
        self.filters.iter().any(|(_, filter)| filter.says_who_helps())
    }

    fn filter(&self, query: &Query<'_>, scene: &mut Scene<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        if self.filters.is_empty() {
            return verdict;
        }
        let mut mask = Mask::all(scene.len());
        for (_, filter) in &self.filters {
            let before = mask.left();
            if before > 0 {
                filter.filter(query, scene, &mut mask);
            }
            verdict.dropped.push((before - mask.left()) as u32);
            mask.next();
        }
        if mask.left() < scene.len() {
            let gone = (0..scene.len()).filter(|row| !mask.has(*row)).take(TOLD);
            let by = |row: usize| usize::from(mask.dropped_by(row).saturating_sub(1));
            verdict.examples = gone.map(|row| (scene.rows()[row].at, by(row))).collect();
            scene.retain(|row| mask.has(row));
        }
        verdict
    }
}

/// The rows with the highest totals, in order, and the picked one, if it is not among them, last.
fn best(totals: &[f32], picked: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(TOLD + 1);
    let mut least = f32::NEG_INFINITY;
    // Among many nearly all are not, which is seen of several at a time.
    for (some, first) in totals.chunks(AT_A_TIME).zip((0..).step_by(AT_A_TIME)) {
        let more = some.iter().map(|total| u32::from(*total > least)).sum::<u32>();
        if best.len() == TOLD && more == 0 {
            continue;
        }
        for (row, total) in (first..).zip(some) {
            if best.len() == TOLD && *total <= least {
                continue;
            }
            let at = best.partition_point(|other| totals[*other] >= *total);
            best.insert(at, row);
            best.truncate(TOLD);
            least = best.last().map_or(f32::NEG_INFINITY, |row| totals[*row]);
        }
    }
    if !best.contains(&picked) {
        best.truncate(TOLD - 1);
        best.push(picked);
    }
    best
}
