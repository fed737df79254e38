//! `POST /v1/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use super::generation::{Asked, Received, answer, receive, token_names};
use crate::{
    egress::{
        completions::{CompletionShape, Progress, PromptEcho},
        shape::Head,
    },
    error::ApiError,
    ingress::{
        completions::{PreparedCompletion, prepare},
        context::RequestContext,
        prepared::PreparedPrompt,
        texts::check_writes,
    },
    openai::{
        common::{ErrorBody, Sampling},
        completions::{Completion, CompletionRequest},
    },
    openapi::{CompletionBody, Failures},
    state::Gateway,
};

/// Continues prompts.
///
/// With `stream` the answer is server-sent events, each with a part of a completion, ended by
/// `data: [DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "create_completion",
    tag = "generation",
    request_body = CompletionBody,
    responses(
        (status = 200, description = "The completion, or events with its parts", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
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
    match receive::<Sampling, _>(&gateway, &context, request, "cmpl-").await? {
        // Apart, so that a request for elsewhere is not moved about with the room that this takes.
        Asked::Here(received) => Box::pin(complete(&gateway, &context, *received)).await,
        Asked::Elsewhere(response) => Ok(response),
    }
}

async fn complete(
    gateway: &Gateway,
    context: &RequestContext,
    received: Received<CompletionRequest>,
) -> Result<Response, ApiError> {
    let Received { permit, asked, own, served, head } = received;
    check_writes(&served, "Completions API")?;
    let prepared = gateway.in_time(context, prepare(served, &asked, own, context)).await?;
    let shape = shape(head, &asked, &prepared);
    let PreparedCompletion { shared, prompts, .. } = prepared;
    answer(gateway, context, (shared, prompts), shape, permit).await
}

fn shape(head: Head, asked: &Sampling, prepared: &PreparedCompletion) -> CompletionShape {
    let shared = &prepared.shared;
    let names = |top| token_names(&shared.model, asked, top);
    let prompts = prepared.prompts.iter().zip(&prepared.echo);
    let echo = |(prompt, text): (&PreparedPrompt, &Option<String>)| PromptEcho {
        tokens: prompt.tokens.to_vec(),
        text: text.clone(),
    };
    CompletionShape {
        head,
        n: shared.n,
        logprobs: prepared.logprobs.map(names),
        prompt_logprobs: prepared.prompt_logprobs.map(names),
        return_token_ids: asked.return_token_ids.unwrap_or(false),
        progress: vec![Progress::default(); prepared.prompts.len() * shared.n as usize],
        prompts: prompts.map(echo).collect(),
    }
}
