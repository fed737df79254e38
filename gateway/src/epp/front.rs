//! Who answers a request of the proxy's client: the layers of this gateway's HTTP, and behind them
//! handlers that pick instead of answering.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;

use super::pick::{Chosen, Pick, To};
use crate::{
    body::JsonBody, error::ApiError, ingress::context::RequestContext, routes::generation::path_of,
    rules::front, server, state::Gateway,
};

/// The handlers with all that stands before them.
pub(crate) fn router(gateway: &Arc<Gateway>) -> Router {
    let generate = || post(generation);
    let rows = Router::new()
        .route("/v1/completions", generate())
        .route("/v1/chat/completions", generate())
        .fallback(other);
    server::layered(rows, gateway)
}

/// Sends a request through; a response with a [`Pick`] says who answers it, any other is the
/// answer.
pub(crate) async fn through(
    router: Router,
    gateway: &Gateway,
    mut request: Request<Body>,
) -> Response {
    if let Err(response) = front::apply(&gateway.book.rules(), &mut request) {
        return response;
    }
    match tower::ServiceExt::oneshot(router, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Places a request for a model that endpoints of others serve.
async fn generation(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Response, ApiError> {
    if gateway.foreign.all().is_empty() {
        return here(&gateway, request).await;
    }
    let permit = gateway.admit()?;
    let path = path_of(request.uri()).to_owned();
    let body = JsonBody::read(request, &gateway.bodies).await?;
    let Some(elsewhere) = gateway.elsewhere(&context, &body) else {
        return Ok(told(Pick { to: To::Here, body: body.bytes(), changed: false }));
    };
    let (turn, permit) = gateway.turn(&context, (&body, &elsewhere), permit).await?;
    let Some(upstream) = gateway.choose(&context, &turn, &[]) else {
        let model = turn.model;
        return Err(ApiError::unavailable(format!("No endpoint of the model `{model}` is ready.")));
    };
    let changed = elsewhere.is_renamed();
    let chosen = Chosen::new(upstream, Arc::clone(&gateway.foreign), &path, permit);
    Ok(told(Pick { to: To::There(Arc::new(chosen)), body: turn.body, changed }))
}

/// Everything else is answered by this gateway.
async fn other(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, ApiError> {
    here(&gateway, request).await
}

async fn here(gateway: &Gateway, request: Request) -> Result<Response, ApiError> {
    let most = gateway.config.max_body_bytes;
    let body: Bytes =
        to_bytes(request.into_body(), most).await.map_err(|_| ApiError::too_large(most))?;
    Ok(told(Pick { to: To::Here, body, changed: false }))
}

fn told(pick: Pick) -> Response {
    let mut response = ().into_response();
    response.extensions_mut().insert(pick);
    response
}
