//! What the endpoints about whole texts share: `/v1/embeddings`, `/score`, `/rerank`.

use serde::Deserialize;
use utoipa::ToSchema;

use super::common::{Sampling, Side};

/// How texts are read.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct PoolingParams {
    /// Which model; absent means the first that is served.
    pub model: Option<String>,
    /// Keep so many tokens of a text that has more, special ones included; -1 keeps what the model
    /// takes.
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Which side is cut; without it, the right.
    pub truncation_side: Option<Side>,
    /// Add the tokenizer's own special tokens to a text.
    pub add_special_tokens: Option<bool>,
    /// Lower runs sooner.
    pub priority: Option<i64>,
    /// The client's own name for the request, which becomes part of the answer's id; a header
    /// `X-Request-Id` wins over it.
    #[schema(max_length = 128)]
    pub request_id: Option<String>,
    /// The end user, for logs.
    pub user: Option<String>,
}

impl From<PoolingParams> for Sampling {
    fn from(params: PoolingParams) -> Self {
        Self {
            model: params.model,
            truncate_prompt_tokens: params.truncate_prompt_tokens,
            truncation_side: params.truncation_side,
            add_special_tokens: params.add_special_tokens,
            priority: params.priority,
            request_id: params.request_id,
            user: params.user,
            ..Self::default()
        }
    }
}
