//! `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`: adapters come and go while the
//! model is served. Bodies, texts and statuses are vLLM's; so is that neither is there unless
//! whoever runs the gateway has allowed it, because a path is read on the hosts. What is missing is
//! said then.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};

use crate::{
    adapters,
    body::JsonBody,
    error::ApiError,
    ingress::context::RequestContext,
    openai::adapters::{LoadAdapterRequest, UnloadAdapterRequest},
    openapi::Failures,
    state::Gateway,
};

/// Serve an adapter by a name.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    operation_id = "load_lora_adapter",
    tag = "models",
    request_body = LoadAdapterRequest,
    responses(
        (status = 200, description = "Every endpoint of the model serves it", body = String),
        Failures,
    )
)]
pub(crate) async fn load(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Response, ApiError> {
    if !gateway.config.lora_updates {
        return Err(not_allowed());
    }
    let body = JsonBody::read(request, &gateway.bodies).await?;
    let asked: LoadAdapterRequest = body.parse()?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (Some(name), Some(path)) = (given(asked.lora_name), given(asked.lora_path)) else {
        let message = "Both 'lora_name' and 'lora_path' must be provided.";
        return Err(ApiError::invalid_input(message));
    };
    let replace = asked.load_inplace.unwrap_or(false);
    let base = asked.base_model_name.as_deref();
    let work = adapters::load(&gateway.directory, &context, base, (&name, &path, replace));
    gateway.in_time(&context, work).await?;
    Ok(format!("Success: LoRA adapter '{name}' added successfully.").into_response())
}

/// Serve a name no more. Requests that have begun go on.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    operation_id = "unload_lora_adapter",
    tag = "models",
    request_body = UnloadAdapterRequest,
    responses(
        (status = 200, description = "No endpoint serves it any more", body = String),
        Failures,
    )
)]
pub(crate) async fn unload(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Response, ApiError> {
    if !gateway.config.lora_updates {
        return Err(not_allowed());
    }
    let body = JsonBody::read(request, &gateway.bodies).await?;
    let asked: UnloadAdapterRequest = body.parse()?;
    let Some(name) = asked.lora_name.filter(|name| !name.is_empty()) else {
        let message = "either 'lora_name' and 'lora_int_id' needs to be provided.";
        return Err(ApiError::invalid_input(message));
    };
    gateway.in_time(&context, adapters::unload(&gateway.directory, &context, &name)).await?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

fn not_allowed() -> ApiError {
    ApiError::not_found(
        "Adapters are not loaded or unloaded while serving: start the gateway with \
         --allow-runtime-lora-updating to allow it.",
    )
}
