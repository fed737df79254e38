//! What probes, load balancers and scrapers ask: `/health`, `/ping`, `/version`, `/load`,
//! `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use troupe_runtime::telemetry::metrics::CONTENT_TYPE;

use crate::state::Gateway;

/// `GET /health`, `GET|POST /ping`: 200 only while a request could be answered.
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>) -> StatusCode {
    match gateway.directory.table().is_empty() {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    }
}

/// `GET /version`.
pub(crate) async fn version() -> Response {
    Json(json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// `GET /load`: requests in flight here.
pub(crate) async fn load(State(gateway): State<Arc<Gateway>>) -> Response {
    Json(json!({"server_load": gateway.admission.in_flight()})).into_response()
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let more = gateway.config.more_metrics.as_ref().map(|more| more());
    let text = gateway.metrics.text(&gateway.directory.table(), more);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
