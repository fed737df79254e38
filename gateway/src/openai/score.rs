//! `/score` and `/rerank`: how much texts have to do with each other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::common::{StringOrList, Usage};

/// The fields that only scores have. Either names of a side may be used.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct ScoreRequest {
    /// One text, or as many as there are of the other side.
    pub text_1: Option<StringOrList>,
    /// What each is compared with.
    pub text_2: Option<StringOrList>,
    /// Another name of `text_1`.
    pub queries: Option<StringOrList>,
    /// Another name of `text_2`.
    pub documents: Option<StringOrList>,
}

/// The answer to `/score`.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ScoreResponse {
    /// `score-` and the request's id.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As the request named it.
    pub model: String,
    /// One per pair, in their order.
    pub data: Vec<ScoreData>,
    /// Tokens that were read.
    pub usage: Usage,
}

/// One pair's score.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ScoreData {
    /// Which pair.
    pub index: u32,
    /// `score`.
    pub object: &'static str,
    /// The cosine of the angle between both vectors.
    pub score: f32,
}

/// The fields that only reranking has.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct RerankRequest {
    /// What is looked for.
    pub query: Option<String>,
    /// Where.
    pub documents: Option<Vec<Document>>,
    /// So many of the best; 0 or nothing is all.
    #[schema(minimum = 0)]
    pub top_n: Option<i64>,
}

/// A document, bare or in an object.
#[derive(Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(untagged, expecting = "a string or an object with a `text` is needed")]
pub enum Document {
    /// Its text.
    Bare(String),
    /// The same in an object.
    Object(DocumentText),
}

/// A document's text.
#[derive(Serialize, Deserialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct DocumentText {
    /// The text.
    pub text: String,
}

/// The answer to `/rerank`.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct RerankResponse {
    /// `rerank-` and the request's id.
    pub id: String,
    /// As the request named it.
    pub model: String,
    /// Tokens that were read.
    pub usage: Usage,
    /// The documents, the one that fits best first.
    pub results: Vec<RerankResult>,
}

/// One document's place.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct RerankResult {
    /// Where it stood in the request.
    pub index: u32,
    /// Its text.
    pub document: DocumentText,
    /// The cosine of the angle between its vector and the query's.
    pub relevance_score: f32,
}

// === impl Document ===

impl Document {
    /// Its text.
    pub fn into_text(self) -> String {
        match self {
            Self::Bare(text) | Self::Object(DocumentText { text }) => text,
        }
    }
}
