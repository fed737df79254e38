//! Log-probabilities: of the model as it is, over the raw row, before bias, penalties, masks and
//! temperature (what vLLM reports by default).
//!
//! A rank is the token's place when the vocabulary is ordered by logit, equal ones by id, so that
//! the token of rank r is the r-th of the list of rivals.

use std::cmp::Ordering;

use troupe_runtime::wire::generate::TokenLogprobs;

use super::{Scratch, math::exp_negative, scan};
use crate::executor::SampleRequest;

/// Elements whose exponentials are summed in single precision; blocks add up in double.
const BLOCK: usize = 16;

/// One entry for each row whose next position holds a prompt token: row i of the chunk stands at
/// position `computed + i` and foretells the next.
///
/// # Errors
/// A sentence, if a row is unusable.
pub(super) fn of_prompt(
    request: &SampleRequest<'_>,
    logits: &[f32],
    vocabulary: usize,
    scratch: &mut Scratch,
) -> Result<Vec<TokenLogprobs>, String> {
    let Some(top) = request.options.prompt_logprobs else {
        return Ok(Vec::new());
    };
    let prompt = &request.tokens[..request.prompt_len.min(request.tokens.len())];
    let foretold = prompt.get(request.computed + 1..).unwrap_or_default();
    logits
        .chunks(vocabulary)
        .zip(foretold)
        .map(|(row, &token)| {
            let max = scan::maximum(row)?;
            if token as usize >= row.len() {
                return Err(format!("prompt token {token} is not in the vocabulary"));
            }
            if max == f32::NEG_INFINITY {
                return Err(format!("all logits before prompt token {token} are -inf"));
            }
            Ok(of_token(row, max, token, top, scratch))
        })
        .collect()
}

/// The entry of `token`, which is in `row`; `max` is the row's largest.
pub(super) fn of_token(
    row: &[f32],
    max: f32,
    token: u32,
    top: u32,
    scratch: &mut Scratch,
) -> TokenLogprobs {
    let normalizer = f64::from(max) + sum_exp(row, max).ln();
    let logprob = |logit: f32| (f64::from(logit) - normalizer) as f32;
    let logit = row[token as usize];
    let (before, after) = row.split_at(token as usize);
    let ahead = before.iter().filter(|&&x| x >= logit).count()
        + after.iter().filter(|&&x| x > logit).count();
    TokenLogprobs {
        token,
        logprob: logprob(logit),
        rank: u32::try_from(ahead + 1).unwrap_or(u32::MAX),
        top: likeliest(row, top as usize, scratch)
            .into_iter()
            .map(|(token, logit)| (token, logprob(logit)))
            .collect(),
    }
}

/// The sum of exp(x - max): at least 1.
fn sum_exp(row: &[f32], max: f32) -> f64 {
    let mut lanes = [0_f64; BLOCK];
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(exp_negative(x - max));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(exp_negative(x - max))).sum::<f64>()
}

/// The `count` largest with their ids, best first, the lower id first among equals.
fn likeliest(row: &[f32], count: usize, scratch: &mut Scratch) -> Vec<(u32, f32)> {
    let count = count.min(row.len());
    if count == 0 {
        return Vec::new();
    }
    let smallest = scan::kth_largest(row, count, scratch);
    let mut found: Vec<(u32, f32)> =
        (0_u32..).zip(row.iter().copied()).filter(|&(_, x)| x >= smallest).collect();
    // Stable, so that ascending ids stay.
    found.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    found.truncate(count);
    found
}
