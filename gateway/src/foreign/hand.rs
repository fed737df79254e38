//! A request's way to a foreign endpoint: noticed by its model, let in, placed, handed on.

use std::{collections::BTreeSet, sync::Arc};

use axum::{http::HeaderMap, response::Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use troupe_runtime::id::{Digest, RequestId};

use super::{choose::BYTES_PER_TOKEN, proxy::Handed, upstream::Upstream};
use crate::{
    admission::Permit,
    body::JsonBody,
    error::ApiError,
    flow::gate::Entry,
    ingress::context::{RequestContext, new_id},
    placement::{Query, prefix::namings::Hashes},
    state::{Gateway, meant},
};

/// What is read of a request that is handed on.
#[derive(Deserialize)]
struct Peek {
    #[serde(default)]
    model: Option<String>,
}

/// A model that a foreign endpoint serves.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// Its name there.
    model: String,
    /// The name that the request says, which may stand for it.
    asked: String,
}

/// A request whose turn has come.
pub(crate) struct Turn<'a> {
    /// The model's name there.
    pub(crate) model: &'a str,
    /// As the endpoint is to have it.
    pub(crate) body: Bytes,
    request: RequestId,
    tokens: usize,
    hashes: Hashes,
}

// === impl Elsewhere ===

impl Elsewhere {
    /// Whether the request says another name than the one that the model has there.
    pub(crate) fn is_renamed(&self) -> bool {
        self.asked != self.model
    }
}

// === impl Gateway ===

impl Gateway {
    /// The model of a request, if a foreign endpoint serves it and none of this cluster does.
    pub(crate) fn elsewhere(&self, context: &RequestContext, body: &JsonBody) -> Option<Elsewhere> {
        let foreign = self.foreign.all();
        if foreign.is_empty() {
            return None;
        }
        let asked = body.peek::<Peek>()?.model.filter(|model| !model.is_empty())?;
        let rules = self.book.rules();
        let model = meant(&rules, context, &asked).to_owned();
        let here = self.directory.serves(&model, context.scope.as_ref());
        let serves = !here && foreign.iter().any(|upstream| upstream.serving(&model).is_some());
        serves.then_some(Elsewhere { model, asked })
    }

    /// Waits until it is a request's turn; the permit is to live as long as its answer.
    pub(crate) async fn turn<'a>(
        &self,
        context: &RequestContext,
        (body, elsewhere): (&JsonBody, &'a Elsewhere),
        permit: Permit,
    ) -> Result<(Turn<'a>, Permit), ApiError> {
        let model = elsewhere.model.as_str();
        let tokens = body.len() / BYTES_PER_TOKEN;
        let ranks = &self.book.rules().ranks;
        let rank = ranks.priority(context.objective.as_deref(), &elsewhere.asked);
        let priority = context.caller.priority(rank);
        let pass = self
            .flow
            .enter(Entry {
                model,
                caller: &context.caller,
                priority,
                tokens: tokens as u64,
                deadline: context.deadline,
            })
            .await?;
        let hashes = self.foreign.guessed.hashes(model, &body.bytes()).await;
        let body = if elsewhere.is_renamed() { renamed(body, model)? } else { body.bytes() };
        let turn = Turn { model, body, request: RequestId(new_id()), tokens, hashes };
        Ok((turn, permit.with(pass)))
    }

    /// Who answers it, of those that were not tried, which their numbers say.
    pub(crate) fn choose(
        &self,
        context: &RequestContext,
        turn: &Turn<'_>,
        tried: &[u32],
    ) -> Option<Arc<Upstream>> {
        let exclude = BTreeSet::new();
        let query = Query {
            model: turn.model,
            tokenizer: Digest::default(),
            exclude: &exclude,
            goes_on: None,
            name: &context.id,
            request: turn.request,
            tokens: u32::try_from(turn.tokens).unwrap_or(u32::MAX),
            hashes: &turn.hashes,
            scope: context.scope.as_ref(),
            // Nobody knows how many requests these run at a time.
            at_once: false,
            hints: &context.hints,
            now: self.directory.now(),
        };
        let placer = self.directory.otherwise();
        let (upstream, decision) = self.foreign.choose(&query, &placer, tried)?;
        self.directory.recent().keep(&Arc::new(decision));
        Some(upstream)
    }

    /// Lets a request in when it is its turn, and hands it on to whoever is best.
    pub(crate) async fn hand_on(
        &self,
        context: &RequestContext,
        (path, headers): (&str, &HeaderMap),
        asked: (&JsonBody, &Elsewhere),
        permit: Permit,
    ) -> Result<Response, ApiError> {
        let (turn, permit) = self.turn(context, asked, permit).await?;
        let (body, model) = (turn.body.clone(), turn.model);
        let handed = Handed { context, path, headers, body, model };
        let choose = |tried: &[u32]| self.choose(context, &turn, tried);
        self.foreign.hand_on(handed, permit, choose).await
    }
}

/// The same request for another model.
fn renamed(body: &JsonBody, model: &str) -> Result<Bytes, ApiError> {
    let mut whole: Value = body.parse()?;
    whole["model"] = model.into();
    Ok(whole.to_string().into())
}
