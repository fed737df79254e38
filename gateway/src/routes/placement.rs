//! `GET /debug/placement/{request}`: where a request's prompts went, and why.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use crate::{error::ApiError, state::Gateway};

/// The decisions for a request, in their order; of the latest requests only.
pub(crate) async fn explain(
    State(gateway): State<Arc<Gateway>>,
    Path(request): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let decisions = gateway.directory.recent().of(&request);
    if decisions.is_empty() {
        let message =
            format!("Nothing is known of the request `{request}`; only the latest are remembered.");
        return Err(ApiError::not_found(message));
    }
    let decisions: Vec<Value> = decisions.iter().map(|decision| decision.to_json()).collect();
    Ok(Json(json!({"request": request, "decisions": decisions})))
}
