//! Choosing a token from adjusted logits: the largest, or one draw from what the filters leave.
//!
//! Each filter keeps a beginning of the tokens ordered by probability, so that none needs the order
//! itself, only where to cut: min-p compares weights, top-k finds the k-th largest logit, top-p
//! halves its candidates by mass. Probability mass is counted in integers, whose sum is the same in
//! any order; with that, the set that survives and the draw depend on the row alone.
//!
//! Ties: tokens that equal the k-th largest logit all stay, as in vLLM; within top-p the tokens
//! that are equally likely enter by ascending id until the sum is reached.

use super::{Scratch, math::exp_negative, random, scan};
use crate::executor::SampleRequest;

/// Temperatures below it are greedy, as in vLLM.
const GREEDY_BELOW: f32 = 1e-5;
/// A weight of 1 has a mass of 2^40, because 2^12 has 52 - 12 bits behind the point. A vocabulary
/// of 2^23 cannot overflow the sum; what is less than 2^-41 as likely as the likeliest token has no
/// mass and is never drawn.
const MASS_SHIFT: f64 = 4096.0;
const MANTISSA: u64 = (1 << 52) - 1;
/// One more than the bin of the largest weight, 1.
const BINS: usize = (1.0_f32.to_bits() >> 20) as usize + 1;
/// Tokens whose mass is summed first, so that a draw looks through sums instead of tokens.
const BLOCK: usize = 256;

/// The token for the request's next output position. `max` is the largest of `row`, which becomes
/// relative weights unless the choice is greedy.
///
/// # Errors
/// A sentence, if nothing is left to choose from or the temperature is no number.
pub(super) fn token(
    request: &SampleRequest<'_>,
    row: &mut [f32],
    max: f32,
    scratch: &mut Scratch,
) -> Result<u32, String> {
    if max == f32::NEG_INFINITY {
        return Err("no token is allowed: grammar, bad_words, allowed_token_ids and min_tokens \
                    together exclude the whole vocabulary"
            .into());
    }
    let temperature = request.options.temperature;
    if !temperature.is_finite() {
        return Err(format!("temperature is {temperature}, a finite number is needed"));
    }
    let index = if temperature < GREEDY_BELOW {
        scan::first_equal(row, max)
    } else {
        weigh(request, row, max, scratch);
        let position = request.tokens.len().saturating_sub(request.prompt_len) as u64;
        draw(row, random::uniform(request.seed, request.choice, position), scratch)
    };
    u32::try_from(index).map_err(|_| format!("token {index} is past any vocabulary"))
}

/// Turns logits into weights: 1 for the likeliest token, 0 for what a filter removes.
pub(super) fn weigh(request: &SampleRequest<'_>, row: &mut [f32], max: f32, scratch: &mut Scratch) {
    let options = request.options;
    let k = options.top_k as usize;
    let smallest =
        if k > 0 && k < row.len() { scan::kth_largest(row, k, scratch) } else { f32::NEG_INFINITY };
    // The likeliest token always stays.
    let least = options.min_p.min(1.0);
    let scale = 1.0 / options.temperature;
    for value in row.iter_mut() {
        let weight = exp_negative((*value - max) * scale);
        *value = if *value >= smallest && weight >= least { weight } else { 0.0 };
    }
    if options.top_p < 1.0 {
        keep_nucleus(row, options.top_p, scratch);
    }
}

/// Keeps the smallest set of likeliest tokens whose share of the mass reaches `share`; the token
/// that crosses it stays, so that at least one does.
///
/// One pass sorts the mass into bins by size of weight; only the bin where the share is reached is
/// looked into.
fn keep_nucleus(weights: &mut [f32], share: f32, scratch: &mut Scratch) {
    let Scratch { bins, keys, .. } = scratch;
    bins.clear();
    bins.resize(BINS, 0);
    for &weight in weights.iter() {
        bins[bin(weight)] += mass(weight);
    }
    let total: u64 = bins.iter().sum();
    let mut needed = ((f64::from(share) * total as f64).ceil() as u64).clamp(1, total);
    let mut crossed = BINS;
    for (index, &mass) in bins.iter().enumerate().rev() {
        crossed = index;
        if mass >= needed {
            break;
        }
        needed -= mass;
    }
    keys.clear();
    let candidates = (0_u32..).zip(weights.iter()).filter(|&(_, &weight)| bin(weight) == crossed);
    keys.extend(candidates.map(|(token, &weight)| key(token, weight)));
    let last = crossing(keys, needed);
    let (last_weight, last_token) = (weight_of(last), token_of(last));
    for (token, weight) in (0_u32..).zip(weights.iter_mut()) {
        let ahead = *weight > last_weight || (*weight == last_weight && token <= last_token);
        *weight = if ahead { *weight } else { 0.0 };
    }
}

/// The key at which the mass of the largest keys reaches `needed`. A search by halves: the likelier
/// half is either enough, or taken whole.
fn crossing(keys: &mut [u64], mut needed: u64) -> u64 {
    let mut rest = keys;
    while rest.len() > 1 {
        let half = rest.len() / 2;
        rest.select_nth_unstable_by(half, |a, b| b.cmp(a));
        let (likelier, others) = rest.split_at_mut(half);
        let sum = total_mass(likelier.iter().map(|&key| weight_of(key)));
        rest = if sum >= needed {
            likelier
        } else {
            needed -= sum;
            others
        };
    }
    rest.first().copied().unwrap_or(0)
}

/// The token at `random / 2^64` of the cumulative mass, tokens in the order of their ids.
fn draw(weights: &[f32], random: u64, scratch: &mut Scratch) -> usize {
    let sums = &mut scratch.sums;
    sums.clear();
    sums.extend(
        weights.chunks(BLOCK).map(|block| block.iter().map(|&weight| mass(weight)).sum::<u64>()),
    );
    let total: u64 = sums.iter().sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let mut start = 0;
    for &sum in sums.iter() {
        if left < sum {
            break;
        }
        left -= sum;
        start += BLOCK;
    }
    for (token, &weight) in weights.iter().enumerate().skip(start) {
        let mass = mass(weight);
        if left < mass {
            return token;
        }
        left -= mass;
    }
    // The likeliest token has mass, so that `left < total` was met above.
    debug_assert!(false, "a draw beyond the mass of all tokens");
    scan::first_equal(weights, 1.0)
}

/// Descending order of keys: the likeliest first, among equals the lowest id.
fn key(token: u32, weight: f32) -> u64 {
    u64::from(weight.to_bits()) << 32 | u64::from(!token)
}

fn weight_of(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

fn token_of(key: u64) -> u32 {
    !(key as u32)
}

/// Weights of one bin have the same exponent and the same first three bits of the mantissa.
fn bin(weight: f32) -> usize {
    (weight.to_bits() >> 20) as usize
}

/// `weight * 2^40`, rounded: the sum's last bit is worth 2^-40, so that its mantissa is the
/// integer.
fn mass(weight: f32) -> u64 {
    (f64::from(weight) + MASS_SHIFT).to_bits() & MANTISSA
}

/// Plain wrapping additions, so that several are done at once; they cannot wrap, see
/// [`MASS_SHIFT`].
fn total_mass(weights: impl Iterator<Item = f32>) -> u64 {
    weights.fold(0, |sum, weight| sum.wrapping_add(mass(weight)))
}
