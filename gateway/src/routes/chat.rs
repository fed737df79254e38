//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use crate::{
    body::JsonBody,
    egress::{answer::Answer, chat::ChatShape, logprobs::TokenNames, shape::Head},
    error::ApiError,
    ingress::{
        chat::{PreparedChat, prepare},
        context::RequestContext,
    },
    model::unix_seconds,
    openai::{chat::ChatRequest, common::Sampling},
    state::Gateway,
};

/// The handler.
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let permit = gateway.admit()?;
    let body = JsonBody::read(request, gateway.config.max_body_bytes).await?;
    let (asked, own) = body.parse_both::<Sampling, ChatRequest>()?;
    drop(body);
    let served = gateway.directory.resolve(asked.model.as_deref())?;
    let head = Head {
        id: format!("chatcmpl-{}", context.id),
        created: unix_seconds(),
        model: asked.model.clone().unwrap_or_else(|| served.name.clone()),
    };
    let prepared = gateway.in_time(&context, prepare(served, &asked, own, &context)).await?;
    let shape = shape(head, &asked, &prepared);
    let PreparedChat { shared, prompt, .. } = prepared;
    let shared = Arc::new(shared);
    Answer {
        shape,
        telling: shared.telling.with_details(gateway.config.prompt_tokens_details),
        n: shared.n,
        prompt_tokens: vec![prompt.tokens.len() as u32],
        deltas: vec![gateway.execute(&shared, prompt, &context)],
        permit,
    }
    .respond()
    .await
}

fn shape(head: Head, asked: &Sampling, prepared: &PreparedChat) -> ChatShape {
    let names = |top: u32| TokenNames {
        model: Arc::clone(&prepared.shared.model),
        as_ids: asked.return_tokens_as_token_ids.unwrap_or(false),
        top: top as usize,
    };
    let ids = asked.return_token_ids.unwrap_or(false);
    ChatShape {
        head,
        role: prepared.role.clone(),
        echo: prepared.echo.clone(),
        logprobs: prepared.logprobs.map(names),
        prompt_logprobs: prepared.prompt_logprobs.map(names),
        prompt_token_ids: ids.then(|| prepared.prompt.tokens.to_vec()),
        begun: vec![false; prepared.shared.n as usize],
    }
}
