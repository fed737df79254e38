//! `POST /score` and `POST /rerank`, each by all the names that vLLM has for it.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use super::generation::{Asked, Received, answer, receive};
use crate::{
    egress::vectors::{RerankShape, ScoreShape, Scoring},
    error::ApiError,
    ingress::{
        context::RequestContext,
        texts::{PreparedTexts, Text, embeds, prepare},
    },
    openai::{
        common::{ErrorBody, StringOrList},
        pooling::PoolingParams,
        score::{Document, RerankRequest, RerankResponse, ScoreRequest, ScoreResponse},
    },
    openapi::{Failures, RerankBody, ScoreBody},
    state::Gateway,
};

type Shared = State<Arc<Gateway>>;
type Context = Extension<Arc<RequestContext>>;

/// Scores pairs of texts.
#[utoipa::path(
    post,
    path = "/score",
    operation_id = "score",
    tag = "texts",
    request_body = ScoreBody,
    responses(
        (status = 200, description = "The scores", body = ScoreResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn score(
    State(gateway): Shared,
    Extension(context): Context,
    request: Request,
) -> Result<Response, ApiError> {
    match receive::<PoolingParams, _>(&gateway, &context, request, "score-").await? {
        Asked::Here(received) => Box::pin(scored(&gateway, &context, *received)).await,
        Asked::Elsewhere(response) => Ok(response),
    }
}

/// Scores pairs of texts.
#[utoipa::path(
    post,
    path = "/v1/score",
    operation_id = "score_v1",
    tag = "texts",
    request_body = ScoreBody,
    responses(
        (status = 200, description = "The scores", body = ScoreResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn score_v1(
    state: Shared,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    score(state, context, request).await
}

/// Puts documents into the order in which they fit a query.
#[utoipa::path(
    post,
    path = "/rerank",
    operation_id = "rerank",
    tag = "texts",
    request_body = RerankBody,
    responses(
        (status = 200, description = "The documents in order", body = RerankResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn rerank(
    State(gateway): Shared,
    Extension(context): Context,
    request: Request,
) -> Result<Response, ApiError> {
    match receive::<PoolingParams, _>(&gateway, &context, request, "rerank-").await? {
        Asked::Here(received) => Box::pin(reranked(&gateway, &context, *received)).await,
        Asked::Elsewhere(response) => Ok(response),
    }
}

/// Puts documents into the order in which they fit a query.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    operation_id = "rerank_v1",
    tag = "texts",
    request_body = RerankBody,
    responses(
        (status = 200, description = "The documents in order", body = RerankResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn rerank_v1(
    state: Shared,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    rerank(state, context, request).await
}

/// Puts documents into the order in which they fit a query.
#[utoipa::path(
    post,
    path = "/v2/rerank",
    operation_id = "rerank_v2",
    tag = "texts",
    request_body = RerankBody,
    responses(
        (status = 200, description = "The documents in order", body = RerankResponse),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn rerank_v2(
    state: Shared,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    rerank(state, context, request).await
}

async fn scored(
    gateway: &Gateway,
    context: &RequestContext,
    received: Received<ScoreRequest>,
) -> Result<Response, ApiError> {
    let Received { permit, asked, own, served, head } = received;
    let embeds = embeds(&served, "Score API")?;
    let firsts = side(own.text_1.or(own.queries), "text_1")?;
    let others = side(own.text_2.or(own.documents), "text_2")?;
    if firsts.len() != 1 && firsts.len() != others.len() {
        let message = "Input lengths must be either 1:1, 1:N or N:N";
        return Err(ApiError::bad_request(message).at("text_1"));
    }
    let (scoring, texts) = compared(embeds.scores, firsts, others);
    let shape = ScoreShape { head, scoring };
    let texts = (texts, "text_2");
    let prepared = gateway.in_time(context, prepare(served, &asked, texts, context)).await?;
    let PreparedTexts { shared, prompts } = prepared;
    answer(gateway, context, (shared, prompts), shape, permit).await
}

async fn reranked(
    gateway: &Gateway,
    context: &RequestContext,
    received: Received<RerankRequest>,
) -> Result<Response, ApiError> {
    let Received { permit, asked, own, served, head } = received;
    let embeds = embeds(&served, "Rerank (Score) API")?;
    let Some(query) = own.query else {
        return Err(ApiError::validation("body.query", "field required"));
    };
    let documents = own.documents.unwrap_or_default().into_iter().map(Document::into_text);
    let documents: Vec<String> = documents.collect();
    if documents.is_empty() {
        let message = "At least one document must be given.";
        return Err(ApiError::bad_request(message).at("documents"));
    }
    let top = match own.top_n.unwrap_or(0) {
        0 => documents.len(),
        top => usize::try_from(top).map_err(|_| {
            ApiError::bad_request(format!("top_n must be at least 0, got {top}.")).at("top_n")
        })?,
    };
    let (scoring, texts) = compared(embeds.scores, vec![query], documents.clone());
    let texts = (texts, "documents");
    let prepared = gateway.in_time(context, prepare(served, &asked, texts, context)).await?;
    let PreparedTexts { shared, prompts } = prepared;
    let shape = RerankShape { head, scoring, documents, top };
    answer(gateway, context, (shared, prompts), shape, permit).await
}

/// What a model is asked, where each of the second texts is compared with its own first one or with
/// the only one: each text by itself, or pairs.
fn compared(pairs: bool, firsts: Vec<String>, others: Vec<String>) -> (Scoring, Vec<Text>) {
    if pairs {
        let firsts = firsts.iter().cycle().cloned();
        let pairs = firsts.zip(others).map(|(first, other)| Text::Pair(first, other));
        return (Scoring::Model, pairs.collect());
    }
    let scoring = Scoring::Cosines(firsts.len());
    (scoring, firsts.into_iter().chain(others).map(Text::Plain).collect())
}

/// One side's texts, at least one.
fn side(texts: Option<StringOrList>, name: &str) -> Result<Vec<String>, ApiError> {
    let texts = texts.map(StringOrList::into_vec).unwrap_or_default();
    match texts.is_empty() {
        false => Ok(texts),
        true => Err(ApiError::bad_request(format!("At least one {name} must be given.")).at(name)),
    }
}
