//! What an endpoint's answer looks like: one trait, and what every answer begins with.

use serde::Serialize;
use troupe_runtime::wire::generate::FinishReason;

use super::stream::Delta;
use crate::openai::common::Usage;

/// Folds deltas into an endpoint's JSON, either event by event or as a whole.
///
/// `index` is the choice's in the answer: prompt's index times `n` plus the choice's.
pub(crate) trait Shape: Send + 'static {
    /// The events for one delta of a stream, in order; none if it shows nothing.
    fn events(&mut self, index: u32, delta: Delta, usage: Option<Usage>) -> Vec<Vec<u8>>;

    /// The event with the usage.
    fn usage_event(&self, usage: Usage) -> Vec<u8>;

    /// The whole answer; one joined delta per index, in order.
    fn whole(&mut self, choices: Vec<Delta>, usage: Usage) -> Vec<u8>;
}

/// What every answer and every event begins with.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// With its prefix.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// As the request named it.
    pub(crate) model: String,
}

/// JSON bytes of an answer.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    // Answers are plain structs with string keys and finite numbers, for which writing to memory
    // cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Why a delta is its choice's last, if it is.
pub(crate) fn finish_reason(delta: &Delta) -> Option<&'static str> {
    delta.end.as_ref().map(|end| reason_name(end.reason))
}

/// As OpenAI's API and vLLM's metrics name the reasons.
pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
        FinishReason::Error => "error",
    }
}
