//! What all endpoints that ask a model have in common: how a request is received, and how its
//! prompts become an answer.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderValue, Uri, uri::PathAndQuery},
    response::Response,
};
use serde::de::DeserializeOwned;

use crate::{
    admission::Permit,
    body::JsonBody,
    egress::{
        answer::Answer,
        logprobs::TokenNames,
        shape::{Head, Shape},
    },
    error::ApiError,
    ingress::{
        context::RequestContext,
        prepared::{Prepared, PreparedPrompt},
    },
    model::{Served, ServedModel, unix_seconds},
    openai::common::Sampling,
    state::Gateway,
};

/// A request that was let in and could be read.
pub(crate) struct Received<T> {
    pub(crate) permit: Permit,
    /// The fields that endpoints share.
    pub(crate) asked: Sampling,
    /// The endpoint's own.
    pub(crate) own: T,
    /// The model that it is for.
    pub(crate) served: Served,
    /// What its answer begins with.
    pub(crate) head: Head,
}

/// What becomes of a request that was let in.
pub(crate) enum Asked<T> {
    /// It is for a model of this cluster.
    Here(Box<Received<T>>),
    /// An endpoint that is not this cluster's answered it.
    Elsewhere(Response),
}

/// With what the next request of a session comes to the same endpoint.
const SESSION_TOKEN: &str = "x-session-token";

/// Lets a request in and reads it, as what endpoints of its kind share and as its own; `prefix` is
/// what its answer's id begins with.
pub(crate) async fn receive<S: DeserializeOwned + Into<Sampling>, T: DeserializeOwned>(
    gateway: &Gateway,
    context: &RequestContext,
    request: Request,
    prefix: &str,
) -> Result<Asked<T>, ApiError> {
    let permit = gateway.admit()?;
    let (parts, body) = request.into_parts();
    let body = JsonBody::read_of(&parts.headers, body, &gateway.bodies).await?;
    if let Some(model) = gateway.elsewhere(context, &body) {
        let came = (path_of(&parts.uri), &parts.headers);
        let response = gateway.hand_on(context, came, (&body, &model), permit).await?;
        return Ok(Asked::Elsewhere(response));
    }
    let (asked, own) = body.parse_both::<S, T>()?;
    let asked: Sampling = asked.into();
    let bytes = body.len();
    drop(body);
    let served = gateway.served(context, asked.model.as_deref(), bytes).await?;
    let head = Head {
        id: format!("{prefix}{}", context.id_for(asked.request_id.as_deref())?),
        created: unix_seconds(),
        model: asked.model.clone().unwrap_or_else(|| served.name.clone()),
    };
    Ok(Asked::Here(Box::new(Received { permit, asked, own, served, head })))
}

/// A request's path with its query.
pub(crate) fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or_else(|| uri.path(), PathAndQuery::as_str)
}

/// Executes every prompt and tells what comes of it in the endpoint's shape.
pub(crate) async fn answer<S: Shape>(
    gateway: &Gateway,
    context: &RequestContext,
    work: (Prepared, Vec<PreparedPrompt>),
    shape: S,
    permit: Permit,
) -> Result<Response, ApiError> {
    let (shared, prompts) = (Arc::new(work.0), work.1);
    let pass = gateway.pass(context, &shared, &prompts).await?;
    let answered = Answer {
        shape,
        telling: shared.telling,
        n: shared.n,
        prompt_tokens: prompts.iter().map(|prompt| prompt.tokens.len() as u32).collect(),
        deltas: prompts
            .into_iter()
            .map(|prompt| gateway.execute(&shared, prompt, context, &pass))
            .collect(),
        permit: permit.with(pass),
    }
    .respond()
    .await;
    answered.map(|mut response| {
        let token = shared.session_token.get().map(|token| HeaderValue::from_str(token));
        if let Some(Ok(token)) = token {
            response.headers_mut().insert(SESSION_TOKEN, token);
        }
        response
    })
}

/// How a request wants tokens told of which it asked for `top` alternatives.
pub(crate) fn token_names(model: &Arc<ServedModel>, asked: &Sampling, top: u32) -> TokenNames {
    TokenNames {
        model: Arc::clone(model),
        as_ids: asked.return_tokens_as_token_ids.unwrap_or(false),
        top: top as usize,
    }
}
