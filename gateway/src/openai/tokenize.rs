//! `/tokenize` and `/detokenize`: the tokenizer by itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Text, or (with the fields of `chat`) a conversation, to tokens.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct TokenizeRequest {
    /// Whose tokenizer.
    pub model: Option<String>,
    /// The text; absent when there are messages.
    #[schema(value_type = String, required = true)]
    pub prompt: Option<String>,
    /// Default: true for a prompt, false for messages.
    pub add_special_tokens: Option<bool>,
    /// Tell the tokens' texts too.
    pub return_token_strs: Option<bool>,
}

/// The tokens.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct TokenizeResponse {
    /// How many.
    pub count: usize,
    /// Most that the model takes.
    pub max_model_len: u32,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Their texts, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to text.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct DetokenizeRequest {
    /// Whose tokenizer.
    pub model: Option<String>,
    /// The tokens.
    #[schema(value_type = Vec<u32>, required = true)]
    pub tokens: Option<Vec<u32>>,
}

/// The text.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}
