//! Sampling: one token out of one row of logits, as a pure function of (logits, options, history,
//! seed, choice, output position).
//!
//! Purity is what lets a stream move to another group and go on with the very token it would have
//! had: nothing depends on the batch, on the step, on what was drawn before or on the machine's
//! mathematics library ([`math`] has its own exponential). [`Scratch`] is memory, not state.
//!
//! The order of what happens to a row:
//! 1. [`adjust`]: logit bias, repetition penalty, presence and frequency penalties; then what may
//!    not be chosen at all (min tokens, allowed ids, bad words, grammar mask) becomes -inf;
//! 2. temperature 0: the largest logit, the lowest id if several are equal;
//! 3. else [`choose`]: temperature, then min-p, top-k, top-p, and one draw.
//!
//! Log-probabilities ([`logprobs`]) are those of the model: over the row as it came, before any of
//! the above. A row with NaN or +inf fails its own sequence, nobody else's.

use crate::executor::{SampleRequest, Sampled};

mod adjust;
mod choose;
mod logprobs;
mod math;
mod random;
mod scan;

#[cfg(test)]
mod tests;

/// Memory that is used again from call to call; what it holds never changes a result.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The row as it came, for log-probabilities; the original is overwritten.
    raw: Vec<f32>,
    /// Per token: bit 0 if it is in the prompt, plus two for each time in the output. Zero between
    /// calls.
    seen: Vec<u32>,
    /// The largest value of each block of a row.
    maxima: Vec<f32>,
    /// Values that may be the k-th largest, or logits of allowed tokens while the rest is cleared.
    values: Vec<f32>,
    /// Probability mass by size of weight, where a nucleus ends.
    bins: Vec<u64>,
    /// Tokens that may be the last of a nucleus, as sortable keys.
    keys: Vec<u64>,
    /// Probability mass of each block of a row.
    sums: Vec<u64>,
}

/// What one sequence asks of its rows of logits, `request.rows.1` of them with the whole vocabulary
/// each. The last row is overwritten. Greedy without log-probabilities allocates nothing.
pub fn sample(request: &SampleRequest<'_>, logits: &mut [f32], scratch: &mut Scratch) -> Sampled {
    sample_rows(request, logits, scratch)
        .unwrap_or_else(|why| Sampled { failed: Some(why), ..Sampled::default() })
}

fn sample_rows(
    request: &SampleRequest<'_>,
    logits: &mut [f32],
    scratch: &mut Scratch,
) -> Result<Sampled, String> {
    let rows = request.rows.1;
    if rows == 0 || logits.is_empty() || !logits.len().is_multiple_of(rows) {
        return Err(format!("{} logits cannot be {rows} rows of a vocabulary", logits.len()));
    }
    let vocabulary = logits.len() / rows;
    let mut sampled = Sampled {
        prompt_logprobs: logprobs::of_prompt(request, logits, vocabulary, scratch)?,
        ..Sampled::default()
    };
    if !request.sample {
        return Ok(sampled);
    }

    let row = &mut logits[(rows - 1) * vocabulary..];
    let max = scan::maximum(row)?;
    let adjusted = adjust::needed(request);
    if request.options.logprobs.is_some() {
        scratch.raw.clear();
        scratch.raw.extend_from_slice(row);
    }
    let adjusted_max = if adjusted {
        adjust::apply(request, row, scratch);
        scan::maximum(row)?
    } else {
        max
    };
    let token = choose::token(request, row, adjusted_max, scratch)?;
    if let Some(top) = request.options.logprobs {
        let raw = std::mem::take(&mut scratch.raw);
        sampled.logprobs = Some(logprobs::of_token(&raw, max, token, top, scratch));
        scratch.raw = raw;
    }
    sampled.token = Some(token);
    Ok(sampled)
}
