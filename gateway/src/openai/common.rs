//! What completions and chat share: sampling options, streaming options, usage, errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How tokens are chosen, when to stop, and how the answer is told.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Sampling {
    /// Which model; absent means the first that is served.
    pub model: Option<String>,
    /// Choices per prompt.
    pub n: Option<i64>,
    /// Softmax temperature; 0 is greedy.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Likeliest k; 0 or -1 is off.
    pub top_k: Option<i64>,
    /// Least share of the likeliest token's probability.
    pub min_p: Option<f64>,
    /// Subtracted once per token seen in the output.
    pub presence_penalty: Option<f64>,
    /// Subtracted per occurrence in the output.
    pub frequency_penalty: Option<f64>,
    /// Divides logits of tokens seen in prompt or output.
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
    /// Tokens that end the output.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Leave the stop string in the answer.
    pub include_stop_str_in_output: Option<bool>,
    /// Go on past the model's own end.
    pub ignore_eos: Option<bool>,
    /// Most output tokens.
    pub max_tokens: Option<i64>,
    /// No end before so many.
    pub min_tokens: Option<i64>,
    /// Leave out special tokens' text.
    pub skip_special_tokens: Option<bool>,
    /// Keep only the last so many prompt tokens; -1 keeps what fits.
    pub truncate_prompt_tokens: Option<i64>,
    /// `left` or `right`: which side is cut.
    pub truncation_side: Option<String>,
    /// Alternatives to report per prompt token.
    pub prompt_logprobs: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// How to stream.
    pub stream_options: Option<StreamOptions>,
    /// Lower runs sooner.
    pub priority: Option<i32>,
    /// Separates this request's cached blocks from others'.
    pub cache_salt: Option<String>,
    /// The client's own name for the request.
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
    pub response_format: Option<ResponseFormat>,
    /// What the output must match.
    pub structured_outputs: Option<Value>,
    /// Beam search, which is not offered.
    pub use_beam_search: Option<bool>,
}

/// Given with `stream`.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    pub include_usage: Option<bool>,
    /// The usage so far in each chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// One text or several.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged, expecting = "a string or a list of strings is needed")]
pub enum StringOrList {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The output's form.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ResponseFormat {
    /// `text`, `json_object`, `json_schema` or `structural_tag`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Tokens counted for one answer.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Of all choices.
    pub completion_tokens: u64,
    /// Of the prompt tokens, if the server is told to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

/// Where the prompt tokens' KV came from.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptTokensDetails {
    /// From the prefix cache.
    pub cached_tokens: u64,
}

/// The body of every failure under `/v1`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
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
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
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
        }
    }
}
