//! What completions and chat share: sampling options, streaming options, usage, errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::structured::{ResponseFormat, StructuredOutputs};

/// How tokens are chosen, when to stop, and how the answer is told.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Which model; absent means the first that is served.
    pub model: Option<String>,
    /// Choices per prompt.
    #[schema(minimum = 1, maximum = 1024)]
    pub n: Option<i64>,
    /// Softmax temperature; 0 is greedy.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Likeliest k; 0 or -1 is off.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Least share of the likeliest token's probability.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Subtracted once per token seen in the output.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Subtracted per occurrence in the output.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Divides logits of tokens seen in prompt or output.
    #[schema(exclusive_minimum = 0)]
    pub repetition_penalty: Option<f64>,
    /// Token id, as a string, to what is added to its logit.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// If given, only these tokens.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Texts that must not appear.
    pub bad_words: Option<Vec<String>>,
    /// Random numbers' key.
    pub seed: Option<i64>,
    /// Texts that end the output.
    pub stop: Option<StringOrList>,
    /// Tokens that end the output; ids that the model does not have are ignored.
    pub stop_token_ids: Option<Vec<i64>>,
    /// Leave the stop string in the answer.
    pub include_stop_str_in_output: Option<bool>,
    /// Go on past the model's own end.
    pub ignore_eos: Option<bool>,
    /// Most output tokens.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// No end before so many.
    #[schema(minimum = 0)]
    pub min_tokens: Option<i64>,
    /// Leave out special tokens' text.
    pub skip_special_tokens: Option<bool>,
    /// Keep only the last so many prompt tokens; -1 keeps what fits.
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Which side is cut; without it, the left.
    pub truncation_side: Option<Side>,
    /// Alternatives to report per prompt token.
    #[schema(minimum = -1)]
    pub prompt_logprobs: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// How to stream.
    pub stream_options: Option<StreamOptions>,
    /// Tokens per event of a stream; the first and the last event do not wait.
    #[schema(minimum = 1)]
    pub stream_interval: Option<i64>,
    /// Lower runs sooner.
    pub priority: Option<i64>,
    /// Separates this request's cached blocks from others'.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[^@/\\\x00]+$")]
    pub cache_salt: Option<String>,
    /// The client's own name for the request, which becomes part of the answer's id; a header
    /// `X-Request-Id` wins over it.
    #[schema(max_length = 128)]
    pub request_id: Option<String>,
    /// The end user, for logs.
    pub user: Option<String>,
    /// Add the tokenizer's own special tokens to the prompt.
    pub add_special_tokens: Option<bool>,
    /// Tell the token ids of prompt and output too.
    pub return_token_ids: Option<bool>,
    /// In logprobs, write `token_id:123` instead of text.
    pub return_tokens_as_token_ids: Option<bool>,
    /// `text`, `json_object`, `json_schema`, `structural_tag`.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<ResponseFormat>,
    /// What the output must match.
    #[schema(value_type = Option<Object>)]
    pub structured_outputs: Option<StructuredOutputs>,
    /// Beam search, which is not offered.
    pub use_beam_search: Option<bool>,
    /// Tokens whose log-probabilities are wanted at every position, which is not offered.
    pub logprob_token_ids: Option<Vec<u32>>,
    /// An end at output that repeats itself, which is not offered.
    #[schema(value_type = Option<Object>)]
    pub repetition_detection: Option<Value>,
}

/// Given with `stream`.
#[derive(Deserialize, ToSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    pub include_usage: Option<bool>,
    /// The usage so far in each chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// An end of a prompt.
#[derive(Deserialize, ToSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// One text or several.
#[derive(Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(untagged, expecting = "a string or a list of strings is needed")]
pub enum StringOrList {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Tokens counted for one answer.
#[derive(Serialize, ToSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Of all choices.
    pub completion_tokens: u64,
    /// Of the prompt tokens; not in the running usage of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Of the completion tokens, if the model thinks; not in the running usage of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// Where the prompt tokens' KV came from.
#[derive(Serialize, ToSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptTokensDetails {
    /// From the prefix cache.
    pub cached_tokens: u64,
}

/// What the completion tokens were.
#[derive(Serialize, ToSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletionTokensDetails {
    /// Thought, not said.
    pub reasoning_tokens: u64,
}

/// The body of every failure under `/v1`.
#[derive(Serialize, Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Serialize, Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault.
    pub param: Option<String>,
    /// The HTTP status.
    pub code: u16,
}

/// Why an output ended: the stop string or the stop token.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum StopReason {
    /// This text was found.
    Text(String),
    /// This token was chosen.
    Token(u32),
}

// === impl StringOrList ===

impl StringOrList {
    /// As a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

// === impl Usage ===

impl Usage {
    /// The sum of both counts.
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: None,
            completion_tokens_details: None,
        }
    }
}
