//! `/v1/models`: what is served.

use serde::Serialize;

/// All of it.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// One per name.
    pub data: Vec<ModelCard>,
}

/// One name that requests may use.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// The name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// `troupe`.
    pub owned_by: &'static str,
    /// Where the model came from.
    pub root: String,
    /// The base model of an adapter.
    pub parent: Option<String>,
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
    /// Kept for clients that expect the field.
    pub permission: Vec<serde_json::Value>,
}
