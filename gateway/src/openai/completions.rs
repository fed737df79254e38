//! `/v1/completions`: text in, text out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::common::{StopReason, Usage};

/// The fields that only completions has.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct CompletionRequest {
    /// One prompt or several, as text or as tokens.
    #[schema(value_type = Prompt, required = true)]
    pub prompt: Option<Prompt>,
    /// Text after the gap, for models that fill in.
    pub suffix: Option<String>,
    /// Put the prompt before the output.
    pub echo: Option<bool>,
    /// Alternatives to report per token.
    #[schema(minimum = -1)]
    pub logprobs: Option<i64>,
    /// Embeddings instead of a prompt, which are not offered.
    pub prompt_embeds: Option<Value>,
}

/// What is to be continued.
#[derive(Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids or a list of lists of token ids \
                 is needed"
)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// One prompt of tokens. Before `Texts`: an empty list is an empty prompt.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several prompts of tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// The answer, whole or one event of a stream.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct Completion {
    /// `cmpl-` and the request's id.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As the request named it.
    pub model: String,
    /// One per prompt and choice; in a stream the one that moved.
    pub choices: Vec<CompletionChoice>,
    /// Tokens so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One output.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct CompletionChoice {
    /// Prompt's index times `n` plus the choice's.
    pub index: u32,
    /// The text, or its next part.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop`, `length`, `abort` or `error`.
    pub finish_reason: Option<&'static str>,
    /// Which stop string or token, if it was one that the client named.
    pub stop_reason: Option<StopReason>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// If asked for; in a stream with the first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// If asked for: per prompt token, its candidates by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

/// Log-probabilities in the old style: parallel lists.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct CompletionLogprobs {
    /// Where each token's text begins in the choice's text.
    pub text_offset: Vec<u32>,
    /// The tokens' own; nothing for the first prompt token.
    pub token_logprobs: Vec<Option<f64>>,
    /// Their text.
    pub tokens: Vec<String>,
    /// The likeliest, by text.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
}
