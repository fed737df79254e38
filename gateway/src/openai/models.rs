//! `/v1/models`, `/version` and `/load`: what is served, by what, and how much of it.

use serde::Serialize;
use utoipa::ToSchema;

/// All of it.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// One per name.
    pub data: Vec<ModelCard>,
}

/// One name that requests may use.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
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
    #[schema(value_type = Vec<Object>)]
    pub permission: Vec<serde_json::Value>,
}

/// `/version`: what is running.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Of Troupe.
    pub version: &'static str,
}

/// `/load`: how much there is to do.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct ServerLoad {
    /// Requests in flight at this gateway.
    pub server_load: usize,
}
