//! A feed-forward layer of experts on the CPU: rows are sorted by the experts that they chose, so
//! that each expert's weights are read once for all of its rows, and the products of all experts
//! are one operation ([`crate::cpu::simd::grouped`]).
//!
//! What a row chooses depends on that row alone, products are those of the row alone, and the
//! outputs are added in the order of experts: so a row's result does not depend on the batch.

use troupe_runtime::model::config::{GroupScore, RouterScore, Routing};

use crate::{
    backend::{Backend, ExpertWeights, PreparedLinear},
    cpu::{
        CpuDevice,
        aligned::Aligned,
        math::{exp, max},
        ops::each_row,
        simd::grouped::Group,
    },
    error::DeviceError,
};

/// An expert that a row chose, and what it weighs.
type Choice = (u32, f32);

/// Working memory.
#[derive(Debug)]
pub(crate) struct Scratch {
    logits: Aligned<f32>,
    chosen: Vec<Choice>,
    /// Inputs, gate and up products, gated, and outputs of the experts' rows, sorted by expert.
    inputs: Aligned<f32>,
    gate_up: Aligned<f32>,
    gated: Aligned<f32>,
    outputs: Aligned<f32>,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let none = || Aligned::zeroed(0);
        Ok(Self {
            logits: none()?,
            chosen: Vec::new(),
            inputs: none()?,
            gate_up: none()?,
            gated: none()?,
            outputs: none()?,
        })
    }
}

/// The layer for all rows of `x`, added to `out` if `add` says so.
pub(crate) fn layer(
    device: &mut CpuDevice,
    x: &[f32],
    weights: &ExpertWeights<'_, CpuDevice>,
    add: bool,
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let hidden = weights.router.in_features();
    let mut scratch = std::mem::replace(&mut device.experts, Scratch::new()?);
    let pieces = x.chunks(ROWS * hidden).zip(out.chunks_mut(ROWS * hidden));
    for (x, out) in pieces {
        rows(device, (x, hidden), weights, add, (&mut scratch, out))?;
    }
    device.experts = scratch;
    Ok(())
}

fn rows(
    device: &mut CpuDevice,
    (x, hidden): (&[f32], usize),
    weights: &ExpertWeights<'_, CpuDevice>,
    add: bool,
    (scratch, out): (&mut Scratch, &mut [f32]),
) -> Result<(), DeviceError> {
    let (rows, count) = (x.len() / hidden, weights.router.out_features());
    scratch.logits.reserve(rows * count)?;
    let logits = &mut scratch.logits[..rows * count];
    device.product((x, &[]), weights.router, false, logits)?;

    let chosen = &mut scratch.chosen;
    chosen.clear();
    chosen.resize(rows * weights.per_token, (0, 0.0));
    let correction = weights.correction.map(|vector| vector.0.as_slice());
    let (logits, per_token) = (&*logits, weights.per_token);
    device.pool.chunks(chosen, CHOICES * per_token, &|task, chosen| {
        for (row, chosen) in chosen.chunks_exact_mut(per_token).enumerate() {
            let logits = &logits[(task * CHOICES + row) * count..][..count];
            choose(logits, correction, weights.routing, chosen);
        }
    });
    let sorted = Sorted::new(chosen, weights.first, weights.down.len());

    let total = sorted.sources.len();
    let inner = weights.down.first().map_or(0, PreparedLinear::in_features);
    scratch.inputs.reserve(total * hidden)?;
    scratch.gate_up.reserve(total * 2 * inner)?;
    scratch.gated.reserve(total * inner)?;
    scratch.outputs.reserve(total * hidden)?;
    let inputs = &mut scratch.inputs[..total * hidden];
    each_row(&mut device.pool, (inputs, hidden), &|at, out| {
        let row = sorted.sources[at] / per_token;
        out.copy_from_slice(&x[row * hidden..][..hidden]);
    });
    let gate_up = &mut scratch.gate_up[..total * 2 * inner];
    device.products(inputs, &sorted.groups(weights.gate_up), gate_up)?;
    let gated = &mut scratch.gated[..total * inner];
    device.gate(gate_up, (gated, inner));
    let outputs = &mut scratch.outputs[..total * hidden];
    device.products(gated, &sorted.groups(weights.down), outputs)?;

    let (outputs, chosen) = (&*outputs, &*chosen);
    each_row(&mut device.pool, (out, hidden), &|row, out| {
        if !add {
            out.fill(0.0);
        }
        let own = row * per_token..(row + 1) * per_token;
        for ((_, weight), place) in chosen[own.clone()].iter().zip(&sorted.places[own]) {
            let Some(place) = place else { continue };
            for (out, value) in out.iter_mut().zip(&outputs[place * hidden..][..hidden]) {
                *out = weight.mul_add(*value, *out);
            }
        }
    });
    Ok(())
}

/// Rows sorted by the experts that they chose.
struct Sorted {
    /// The number of the choice that each sorted row is for.
    sources: Vec<usize>,
    /// Where each choice's row is, unless its expert is elsewhere.
    places: Vec<Option<usize>>,
    /// Rows of each expert that is here.
    counts: Vec<usize>,
}

impl Sorted {
    /// Sorts by the `here` experts from `first` on.
    fn new(chosen: &[Choice], first: usize, here: usize) -> Self {
        let own = |choice: &Choice| (choice.0 as usize).checked_sub(first).filter(|at| *at < here);
        let mut counts = vec![0; here];
        chosen.iter().filter_map(own).for_each(|expert| counts[expert] += 1);
        let mut next: Vec<usize> = counts
            .iter()
            .scan(0, |start, count| Some(std::mem::replace(start, *start + count)))
            .collect();
        let mut sources = vec![0; counts.iter().sum()];
        let place = |(at, choice): (usize, &Choice)| {
            let expert = own(choice)?;
            let place = next[expert];
            next[expert] += 1;
            sources[place] = at;
            Some(place)
        };
        let places = chosen.iter().enumerate().map(place).collect();
        Self { sources, places, counts }
    }

    fn groups<'a>(&self, weights: &'a [crate::cpu::packed::CpuLinear]) -> Vec<Group<'a>> {
        let groups = weights.iter().zip(&self.counts);
        groups.map(|(weight, &rows)| Group { weight, rows }).collect()
    }
}

/// The experts of one row by its logits, in the order of experts. Of equals the first is chosen.
fn choose(logits: &[f32], correction: Option<&[f32]>, routing: &Routing, chosen: &mut [Choice]) {
    let scores = scores(logits, routing.score);
    let ranked: Vec<f32> = match correction {
        Some(correction) => scores.iter().zip(correction).map(|(a, b)| a + b).collect(),
        None => scores.clone(),
    };
    let mut open = vec![true; ranked.len()];
    if routing.groups > 1 {
        keep_groups(&ranked, routing, &mut open);
    }
    for choice in chosen.iter_mut() {
        let at = best(&ranked, &open).unwrap_or(0);
        open[at] = false;
        *choice = (at as u32, scores[at]);
    }
    chosen.sort_unstable_by_key(|choice| choice.0);
    if routing.normalize {
        let sum: f32 = chosen.iter().map(|choice| choice.1).sum();
        chosen.iter_mut().for_each(|choice| choice.1 /= sum + LEAST_SUM);
    }
    let scale = routing.scale as f32;
    chosen.iter_mut().for_each(|choice| choice.1 *= scale);
}

fn scores(logits: &[f32], score: RouterScore) -> Vec<f32> {
    match score {
        RouterScore::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + exp(-logit))).collect(),
        RouterScore::Softmax => {
            let peak = logits.iter().fold(f32::NEG_INFINITY, |a, &b| max(a, b));
            let mut scores: Vec<f32> = logits.iter().map(|logit| exp(logit - peak)).collect();
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
            scores
        }
    }
}

/// Closes all experts but those of the best groups.
fn keep_groups(ranked: &[f32], routing: &Routing, open: &mut [bool]) {
    let size = ranked.len() / routing.groups;
    let score = |group: &[f32]| {
        let mut best_two = [f32::NEG_INFINITY; 2];
        for &score in group {
            if score > best_two[0] {
                best_two = [score, best_two[0]];
            } else if score > best_two[1] {
                best_two[1] = score;
            }
        }
        match routing.group_score {
            GroupScore::Best => best_two[0],
            GroupScore::BestTwo => best_two[0] + best_two[1],
        }
    };
    let groups: Vec<f32> = ranked.chunks_exact(size).map(score).collect();
    let mut left = vec![true; groups.len()];
    open.fill(false);
    for _ in 0..routing.groups_kept {
        let Some(group) = best(&groups, &left) else { return };
        left[group] = false;
        open[group * size..(group + 1) * size].fill(true);
    }
}

/// Where the greatest of the open values is; the first open one if none compares.
fn best(values: &[f32], open: &[bool]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for at in (0..values.len()).filter(|at| open[*at]) {
        if best.is_none_or(|best| values[at] > values[best]) {
            best = Some(at);
        }
    }
    best
}

/// Fails unless every product fits the others; `corrected` is how many experts have a correction,
/// if there is one.
pub(crate) fn check<B: Backend>(
    weights: &ExpertWeights<'_, B>,
    corrected: Option<usize>,
) -> Result<(), DeviceError> {
    let ExpertWeights { router, routing, per_token, first, gate_up, down, .. } = weights;
    let (hidden, count) = (router.in_features(), router.out_features());
    let inner = down.first().map_or(0, PreparedLinear::in_features);
    let fits = gate_up.len() == down.len()
        && first + down.len() <= count
        && gate_up.iter().all(|w| (w.in_features(), w.out_features()) == (hidden, 2 * inner))
        && down.iter().all(|w| (w.in_features(), w.out_features()) == (inner, hidden));
    let routes = corrected == routing.correction_bias.then_some(count)
        && routing.groups > 0
        && count.is_multiple_of(routing.groups)
        && (1..=routing.groups).contains(&routing.groups_kept)
        && (1..=count / routing.groups * routing.groups_kept).contains(per_token);
    if fits && routes {
        return Ok(());
    }
    let why = format!(
        "{} of {count} experts from {first} on, {per_token} for each token, by {routing:?}",
        down.len()
    );
    Err(DeviceError::Contract(why))
}

/// Rows at a time: what bounds working memory, and enough for each expert to have several.
const ROWS: usize = 1024;
/// Rows whose choices are one task.
const CHOICES: usize = 16;
/// Keeps a sum of scores that are all zero from being divided by.
const LEAST_SUM: f32 = 1e-20;

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(logits: &[f32], correction: Option<&[f32]>, routing: Routing) -> Vec<Choice> {
        let mut chosen = vec![(0, 0.0); 2];
        choose(logits, correction, &routing, &mut chosen);
        chosen
    }

    fn near(found: &[Choice], expected: &[Choice]) {
        let pairs = found.iter().zip(expected);
        let close = pairs.clone().all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6);
        assert!(close && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }

    #[test]
    fn the_best_are_chosen_in_the_order_of_experts() {
        let logits = [0.0, 2f32.ln(), 0.0, 4f32.ln()];
        near(&chosen(&logits, None, Routing::SOFTMAX), &[(1, 0.25), (3, 0.5)]);
        let normalized = Routing { normalize: true, scale: 3.0, ..Routing::SOFTMAX };
        near(&chosen(&logits, None, normalized), &[(1, 1.0), (3, 2.0)]);
        near(&chosen(&[1.0; 4], None, Routing::SOFTMAX), &[(0, 0.25), (1, 0.25)]);
        // Nothing compares, and two experts are chosen all the same.
        let none = chosen(&[f32::NAN; 4], None, Routing::SOFTMAX);
        assert_eq!((none[0].0, none[1].0), (0, 1));
    }

    #[test]
    fn a_correction_decides_the_choice_and_not_the_weight() {
        let routing =
            Routing { score: RouterScore::Sigmoid, correction_bias: true, ..Routing::SOFTMAX };
        let found = chosen(&[0.0, 3.0, 0.0, 4.0], Some(&[0.0, -1.0, 1.0, 0.0]), routing);
        near(&found, &[(2, 0.5), (3, 1.0 / (1.0 + (-4f32).exp()))]);
    }

    #[test]
    fn groups_are_kept_by_their_best_or_by_their_two_best() {
        let logits = [3.0, 0.0, 2.0, 2.0, 1.0, 0.0];
        let grouped = Routing { groups: 3, groups_kept: 1, ..Routing::SOFTMAX };
        let places = |routing| -> Vec<u32> {
            chosen(&logits, None, routing).iter().map(|choice| choice.0).collect()
        };
        assert_eq!(places(grouped), [0, 1]);
        let sigmoid = Routing { score: RouterScore::Sigmoid, ..grouped };
        assert_eq!(places(Routing { group_score: GroupScore::BestTwo, ..sigmoid }), [2, 3]);
        assert_eq!(places(Routing { groups_kept: 2, ..grouped }), [0, 2]);
    }

    #[test]
    fn rows_are_sorted_by_the_experts_that_are_here() {
        let sorted = Sorted::new(&[(0, 1.0), (3, 1.0), (1, 1.0), (2, 1.0), (2, 1.0)], 1, 2);
        assert_eq!(sorted.counts, [1, 2]);
        assert_eq!(sorted.places, [None, None, Some(0), Some(1), Some(2)]);
        assert_eq!(sorted.sources, [2, 3, 4]);
    }
}
