//! A request's way to a foreign endpoint: noticed by its model, let in, placed, handed on.

use std::collections::BTreeSet;

use axum::{http::HeaderMap, response::Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use troupe_runtime::id::{Digest, RequestId};

use super::{choose::BYTES_PER_TOKEN, proxy::Handed};
use crate::{
    admission::Permit,
    body::JsonBody,
    error::ApiError,
    flow::gate::Entry,
    ingress::context::RequestContext,
    placement::Query,
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

// === impl Gateway ===

impl Gateway {
    /// The model of a request, if a foreign endpoint serves it and none of this cluster does.
    pub(crate) fn elsewhere(&self, context: &RequestContext, body: &JsonBody) -> Option<Elsewhere> {
        let asked = body.peek::<Peek>()?.model?;
        let rules = self.book.rules();
        let model = meant(&rules, context, &asked).to_owned();
        let here = self.directory.resolve(Some(&model), context.scope.as_ref()).is_ok();
        let serves = !here && self.foreign.serving(&model).next().is_some();
        serves.then_some(Elsewhere { model, asked })
    }

    /// Lets a request in when it is its turn, and hands it on to whoever is best.
    pub(crate) async fn hand_on(
        &self,
        context: &RequestContext,
        (path, headers): (&str, &HeaderMap),
        (body, elsewhere): (&JsonBody, &Elsewhere),
        permit: Permit,
    ) -> Result<Response, ApiError> {
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
        let (request, exclude) = (RequestId::new(), BTreeSet::new());
        let hashes = self.foreign.guessed.hashes(model, &body.bytes()).await;
        let query = Query {
            model,
            tokenizer: Digest::default(),
            exclude: &exclude,
            goes_on: None,
            name: &context.id,
            request,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            hashes: &hashes,
            scope: context.scope.as_ref(),
            hints: &context.hints,
            now: self.directory.now(),
        };
        let placer = self.directory.otherwise();
        let bytes = match elsewhere.asked == model {
            true => body.bytes(),
            false => renamed(body, model)?,
        };
        let handed = Handed { context, path, headers, body: bytes, model };
        let choose = |tried: &_| self.foreign.choose(&query, &placer, tried);
        self.foreign.hand_on(handed, permit.with(pass), choose).await
    }
}

/// The same request for another model.
fn renamed(body: &JsonBody, model: &str) -> Result<Bytes, ApiError> {
    let mut whole: Value = body.parse()?;
    whole["model"] = model.into();
    Ok(whole.to_string().into())
}
