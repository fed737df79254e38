//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use super::generation::{Asked, Received, answer, receive, token_names};
use crate::{
    egress::{chat::ChatShape, message::Message, shape::Head},
    error::ApiError,
    ingress::{
        chat::{PreparedChat, prepare},
        context::RequestContext,
        texts::check_writes,
    },
    openai::{
        chat::{ChatChunk, ChatCompletion, ChatRequest},
        common::{ErrorBody, Sampling},
    },
    openapi::{ChatBody, Failures},
    state::Gateway,
};

/// Answers a conversation.
///
/// With `stream` the answer is server-sent events, each with a `ChatChunk`, ended by
/// `data: [DONE]`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "create_chat_completion",
    tag = "generation",
    request_body = ChatBody,
    responses(
        (status = 200, description = "The message, or events with its parts", content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
        Failures,
        (status = 500, description = "A fault of the engine", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Response, ApiError> {
    match receive::<Sampling, _>(&gateway, &context, request, "chatcmpl-").await? {
        // Apart, so that a request for elsewhere is not moved about with the room that this takes.
        Asked::Here(received) => Box::pin(complete(&gateway, &context, *received)).await,
        Asked::Elsewhere(response) => Ok(response),
    }
}

async fn complete(
    gateway: &Gateway,
    context: &RequestContext,
    received: Received<ChatRequest>,
) -> Result<Response, ApiError> {
    let Received { permit, asked, own, served, head } = received;
    check_writes(&served, "Chat Completions API")?;
    let prepared = gateway.in_time(context, prepare(served, &asked, own, context)).await?;
    let shape = shape(head, &asked, &prepared);
    let PreparedChat { shared, prompt, .. } = prepared;
    answer(gateway, context, (shared, vec![prompt]), shape, permit).await
}

fn shape(head: Head, asked: &Sampling, prepared: &PreparedChat) -> ChatShape {
    let names = |top| token_names(&prepared.shared.model, asked, top);
    let ids = asked.return_token_ids.unwrap_or(false);
    let messages = (0..prepared.shared.n).map(|_| Message::new(Arc::clone(&prepared.rules)));
    ChatShape {
        head,
        role: prepared.role.clone(),
        echo: prepared.echo.clone(),
        logprobs: prepared.logprobs.map(names),
        prompt_logprobs: prepared.prompt_logprobs.map(names),
        prompt_token_ids: ids.then(|| prepared.prompt.tokens.to_vec()),
        begun: vec![false; prepared.shared.n as usize],
        messages: messages.collect(),
    }
}
