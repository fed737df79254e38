//! What changes logits before one is chosen: bias and penalties, then bans.
//!
//! Additions come first, as vLLM has them; bans write -inf and so commute with everything. Tokens
//! outside the vocabulary are ignored wherever they are named. The output's tokens count wherever
//! they were made, so a stream that moved is treated as if it had not.

use super::Scratch;
use crate::executor::SampleRequest;

/// Whether [`apply`] would do anything.
pub(super) fn needed(request: &SampleRequest<'_>) -> bool {
    let options = request.options;
    request.mask.is_some()
        || !options.logit_bias.is_empty()
        || !options.allowed_token_ids.is_empty()
        || !options.bad_words.is_empty()
        || penalized(request)
        || ends_too_soon(request)
}

/// Adjusts `row` in place.
pub(super) fn apply(request: &SampleRequest<'_>, row: &mut [f32], scratch: &mut Scratch) {
    let options = request.options;
    for &(token, bias) in &options.logit_bias {
        if let Some(logit) = row.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if penalized(request) {
        penalize(request, row, &mut scratch.seen);
    }
    if ends_too_soon(request) {
        ban(row, options.eos_token_ids.iter().chain(&options.stop_token_ids));
    }
    if !options.allowed_token_ids.is_empty() {
        allow_only(row, &options.allowed_token_ids, &mut scratch.values);
    }
    let output = output(request);
    for word in &options.bad_words {
        if let Some((last, start)) = word.split_last()
            && output.ends_with(start)
        {
            ban(row, [last]);
        }
    }
    if let Some(mask) = request.mask {
        apply_mask(row, mask);
    }
}

fn output<'a>(request: &SampleRequest<'a>) -> &'a [u32] {
    request.tokens.get(request.prompt_len..).unwrap_or_default()
}

fn penalized(request: &SampleRequest<'_>) -> bool {
    let options = request.options;
    options.repetition_penalty != 1.0
        || options.presence_penalty != 0.0
        || options.frequency_penalty != 0.0
}

/// An end is not allowed yet. `ignore_eos` does not matter: an end token that would be ignored is
/// still not wanted before `min_tokens`, as in vLLM.
fn ends_too_soon(request: &SampleRequest<'_>) -> bool {
    output(request).len() < request.options.min_tokens as usize
}

/// Marks each token of the history once, then visits the history again, so that the cost is the
/// history's length and not the vocabulary's.
fn penalize(request: &SampleRequest<'_>, row: &mut [f32], seen: &mut Vec<u32>) {
    let options = request.options;
    if seen.len() < row.len() {
        seen.resize(row.len(), 0);
    }
    // Only the repetition penalty looks at the prompt.
    let prompt_counts = options.repetition_penalty != 1.0;
    let prompt = if prompt_counts {
        &request.tokens[..request.prompt_len.min(request.tokens.len())]
    } else {
        &[]
    };
    for &token in prompt {
        if let Some(mark) = seen.get_mut(token as usize) {
            *mark |= 1;
        }
    }
    let output = output(request);
    for &token in output {
        if let Some(mark) = seen.get_mut(token as usize) {
            *mark += 2;
        }
    }
    for &token in prompt.iter().chain(output) {
        let Some(mark) = seen.get_mut(token as usize) else {
            continue;
        };
        let count = std::mem::take(mark);
        let Some(logit) = row.get_mut(token as usize) else {
            continue;
        };
        if count == 0 {
            continue;
        }
        let penalty = options.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        let repeats = count / 2;
        if repeats > 0 {
            *logit -= repeats as f32 * options.frequency_penalty;
            *logit -= options.presence_penalty;
        }
    }
}

fn ban<'a>(row: &mut [f32], tokens: impl IntoIterator<Item = &'a u32>) {
    for &token in tokens {
        if let Some(logit) = row.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn allow_only(row: &mut [f32], allowed: &[u32], kept: &mut Vec<f32>) {
    kept.clear();
    let logit = |token: u32| row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    kept.extend(allowed.iter().map(|&token| logit(token)));
    row.fill(f32::NEG_INFINITY);
    for (&token, &logit) in allowed.iter().zip(kept.iter()) {
        if let Some(slot) = row.get_mut(token as usize) {
            *slot = logit;
        }
    }
}

/// A token past the mask's end is not allowed.
fn apply_mask(row: &mut [f32], mask: &[u32]) {
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in row.chunks_mut(u32::BITS as usize).zip(words) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
