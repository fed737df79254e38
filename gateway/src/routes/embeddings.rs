//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use super::generation::{Asked, Received, answer, receive};
use crate::{
    egress::vectors::EmbeddingShape,
    error::ApiError,
    ingress::{
        context::RequestContext,
        texts::{PreparedTexts, finishing, inputs, prepare, vectors},
    },
    openai::{
        common::ErrorBody,
        embeddings::{EmbeddingRequest, EmbeddingResponse},
        pooling::PoolingParams,
    },
    openapi::{EmbeddingBody, Failures},
    state::Gateway,
};

/// Makes vectors of texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "create_embedding",
    tag = "texts",
    request_body = EmbeddingBody,
    responses(
        (status = 200, description = "The vectors", body = EmbeddingResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Response, ApiError> {
    match receive::<PoolingParams, _>(&gateway, &context, request, "embd-").await? {
        Asked::Here(received) => Box::pin(complete(&gateway, &context, *received)).await,
        Asked::Elsewhere(response) => Ok(response),
    }
}

async fn complete(
    gateway: &Gateway,
    context: &RequestContext,
    received: Received<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let Received { permit, asked, own, served, head } = received;
    let embeds = vectors(&served, "Embeddings API")?;
    let finishing = finishing(&served, &embeds, &own)?;
    let format = own.encoding_format.unwrap_or_default();
    let texts = (inputs(own.input)?, "input");
    let prepared = gateway.in_time(context, prepare(served, &asked, texts, context)).await?;
    let PreparedTexts { shared, prompts } = prepared;
    let shape = EmbeddingShape { head, finishing, format };
    answer(gateway, context, (shared, prompts), shape, permit).await
}
