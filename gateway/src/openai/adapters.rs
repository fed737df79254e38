//! What loads and unloads LoRA adapters: vLLM's own, not OpenAI's.

use serde::Deserialize;
use utoipa::ToSchema;

/// `/v1/load_lora_adapter`.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadAdapterRequest {
    /// The name that requests will use as their model.
    pub lora_name: Option<String>,
    /// The adapter's folder, as each host of the model sees it.
    pub lora_path: Option<String>,
    /// Whether one that is served by this name already gives way.
    pub load_inplace: Option<bool>,
    /// The model that it is for; needed where several are served.
    pub base_model_name: Option<String>,
}

/// `/v1/unload_lora_adapter`.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct UnloadAdapterRequest {
    /// The name.
    pub lora_name: Option<String>,
}
