//! `/v1/embeddings`: texts in, vectors out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{common::Usage, completions::Prompt};

/// The fields that only embeddings has.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct EmbeddingRequest {
    /// One text or several, as text or as tokens.
    #[schema(value_type = Prompt, required = true)]
    pub input: Option<Prompt>,
    /// Elements that are wanted, of models whose vectors may be cut.
    #[schema(minimum = 1)]
    pub dimensions: Option<i64>,
    /// How a vector is written; without it, as a list of numbers.
    pub encoding_format: Option<EncodingFormat>,
    /// Whether vectors are divided by their length; without it, as the model's authors say.
    pub normalize: Option<bool>,
}

/// How a vector is written.
#[derive(Deserialize, ToSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// Base64 of its elements as 32-bit floats, the lowest byte first.
    Base64,
    /// A list of numbers.
    #[default]
    Float,
}

/// The answer.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct EmbeddingResponse {
    /// `embd-` and the request's id.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As the request named it.
    pub model: String,
    /// One per text, in their order.
    pub data: Vec<EmbeddingData>,
    /// Tokens that were read.
    pub usage: Usage,
}

/// One text's vector.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct EmbeddingData {
    /// Which text.
    pub index: u32,
    /// `embedding`.
    pub object: &'static str,
    /// The vector.
    pub embedding: Vector,
}

/// A vector as it was asked for.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub enum Vector {
    /// As base64.
    Base64(String),
    /// As numbers.
    Float(Vec<f32>),
}
