//! What probes, load balancers and scrapers ask: `/health`, `/ping`, `/version`, `/load`,
//! `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use troupe_runtime::telemetry::{
    metrics::{CONTENT_TYPE, Labels},
    names,
};

use crate::{
    openai::models::{ServerLoad, Version},
    state::Gateway,
};

/// 200 only while a request could be answered.
#[utoipa::path(
    get,
    path = "/health",
    tag = "probes",
    responses(
        (status = 200, description = "An endpoint is ready, or comes up when it is asked for"),
        (status = 503, description = "None is"),
    )
)]
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>) -> StatusCode {
    match gateway.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The same as `/health`, for those who ask here.
#[utoipa::path(
    get,
    path = "/ping",
    tag = "probes",
    responses(
        (status = 200, description = "An endpoint is ready, or comes up when it is asked for"),
        (status = 503, description = "None is"),
    )
)]
pub(crate) async fn ping(gateway: State<Arc<Gateway>>) -> StatusCode {
    health(gateway).await
}

/// The same for those who post; described by itself, because an operation has one name.
#[utoipa::path(
    post,
    path = "/ping",
    operation_id = "post_ping",
    tag = "probes",
    responses(
        (status = 200, description = "An endpoint is ready"),
        (status = 503, description = "None is"),
    )
)]
pub(crate) async fn post_ping(gateway: State<Arc<Gateway>>) -> StatusCode {
    health(gateway).await
}

/// What is running.
#[utoipa::path(
    get,
    path = "/version",
    tag = "probes",
    responses((status = 200, description = "The version", body = Version))
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Requests in flight here.
#[utoipa::path(
    get,
    path = "/load",
    tag = "probes",
    responses((status = 200, description = "The load", body = ServerLoad))
)]
pub(crate) async fn load(State(gateway): State<Arc<Gateway>>) -> Json<ServerLoad> {
    Json(ServerLoad { server_load: gateway.admission.in_flight() })
}

/// What is measured, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "probes",
    responses((status = 200, description = "Prometheus' text format", content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let blocks = gateway.directory.prefixes().index.blocks();
    let size = gateway.metrics.all().gauge(names::PREFIX_INDEXER_SIZE, &Labels::new());
    size.set(blocks as f64);
    let text = gateway.metrics.text(&gateway.directory.table()).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
