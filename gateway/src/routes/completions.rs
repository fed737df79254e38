//! `POST /v1/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

use crate::{
    body::JsonBody,
    egress::{
        answer::Answer,
        completions::{CompletionShape, Progress, PromptEcho},
        logprobs::TokenNames,
        shape::Head,
    },
    error::ApiError,
    ingress::{
        completions::{PreparedCompletion, prepare},
        context::RequestContext,
    },
    model::unix_seconds,
    openai::{common::Sampling, completions::CompletionRequest},
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
    let (asked, own) = body.parse_both::<Sampling, CompletionRequest>()?;
    drop(body);
    let served = gateway.directory.resolve(asked.model.as_deref())?;
    let head = Head {
        id: format!("cmpl-{}", context.id),
        created: unix_seconds(),
        model: asked.model.clone().unwrap_or_else(|| served.name.clone()),
    };
    let prepared = gateway.in_time(&context, prepare(served, &asked, own, &context)).await?;
    let shape = shape(head, &asked, &prepared);
    let PreparedCompletion { shared, prompts, .. } = prepared;
    let shared = Arc::new(shared);
    Answer {
        shape,
        telling: shared.telling.with_details(gateway.config.prompt_tokens_details),
        n: shared.n,
        prompt_tokens: prompts.iter().map(|prompt| prompt.tokens.len() as u32).collect(),
        deltas: prompts.into_iter().map(|p| gateway.execute(&shared, p, &context)).collect(),
        permit,
    }
    .respond()
    .await
}

fn shape(head: Head, asked: &Sampling, prepared: &PreparedCompletion) -> CompletionShape {
    let shared = &prepared.shared;
    let names = |top: u32| TokenNames {
        model: Arc::clone(&shared.model),
        as_ids: asked.return_tokens_as_token_ids.unwrap_or(false),
        top: top as usize,
    };
    let prompts = prepared.prompts.iter().zip(&prepared.echo);
    let echo = |(prompt, text): (&crate::ingress::prepared::PreparedPrompt, &Option<String>)| {
        PromptEcho { tokens: prompt.tokens.to_vec(), text: text.clone() }
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
