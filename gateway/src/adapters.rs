//! LoRA adapters come and go at the endpoints of a model.
//!
//! All of them are asked at the same time, because a name that some serve would leave the others
//! idle. If one refuses, those that loaded it are told to give it up again, and the client hears
//! why. An endpoint that comes up later knows only the adapters that its service declares.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use troupe_runtime::{
    error::ErrorKind,
    transport::{Conversation, LinkError, Stream},
    wire::adapter::{AdaptDown, AdaptLoad, AdaptUp},
};

use crate::{
    error::ApiError,
    ingress::context::RequestContext,
    placement::{directory::Directory, endpoint::Endpoint},
};

/// Has every endpoint of a model serve the adapter at a path by a name.
///
/// # Errors
/// What the first that refuses says; nobody serves it then that did not before.
pub(crate) async fn load(
    directory: &Directory,
    context: &RequestContext,
    base: Option<&str>,
    (name, path, replace): (&str, &str, bool),
) -> Result<(), ApiError> {
    let all = of_model(directory, context, base)?;
    let load = AdaptLoad { name: name.to_owned(), path: path.to_owned(), replace };
    let load = |endpoint: &Arc<Endpoint>| {
        let (endpoint, up) = (Arc::clone(endpoint), AdaptUp::Load(load.clone()));
        async move { ask(&endpoint, up).await }
    };
    let done = join_all(all.iter().map(load)).await;
    if let Some(error) = done.iter().find_map(|done| done.as_ref().err()) {
        let loaded = all.iter().zip(&done).filter(|(_, done)| done.is_ok() && !replace);
        let undo = loaded.map(|(endpoint, _)| ask(endpoint, AdaptUp::Unload(name.to_owned())));
        for undone in join_all(undo).await {
            if let Err(error) = undone {
                tracing::warn!(%error, name, "an adapter stays where others refused it");
            }
        }
        return Err(error.clone());
    }
    told(directory, &all, |endpoint| endpoint.adapter(name).is_some()).await;
    Ok(())
}

/// Has every endpoint that serves an adapter give it up.
///
/// # Errors
/// 404 if nobody serves it.
pub(crate) async fn unload(
    directory: &Directory,
    context: &RequestContext,
    name: &str,
) -> Result<(), ApiError> {
    let within = within(directory, context);
    let all: Vec<_> =
        within.into_iter().filter(|endpoint| endpoint.adapter(name).is_some()).collect();
    if all.is_empty() {
        return Err(ApiError::not_found(format!("The lora adapter '{name}' cannot be found.")));
    }
    let unload = all.iter().map(|endpoint| ask(endpoint, AdaptUp::Unload(name.to_owned())));
    for done in join_all(unload).await {
        done?;
    }
    told(directory, &all, |endpoint| endpoint.adapter(name).is_none()).await;
    Ok(())
}

fn within(directory: &Directory, context: &RequestContext) -> Vec<Arc<Endpoint>> {
    let scope = context.scope.as_ref();
    let table = directory.table();
    let within = |endpoint: &&Arc<Endpoint>| {
        scope.is_none_or(|scope| scope.has(&endpoint.info.endpoint.group))
    };
    table.values().filter(within).cloned().collect()
}

/// The endpoints of a model; without a name, of the only one that there is.
fn of_model(
    directory: &Directory,
    context: &RequestContext,
    base: Option<&str>,
) -> Result<Vec<Arc<Endpoint>>, ApiError> {
    let mut all = within(directory, context);
    let Some(base) = base else {
        let models: BTreeSet<_> =
            all.iter().filter_map(|endpoint| endpoint.info.model_names.first()).collect();
        return match models.len() {
            0 => Err(ApiError::unavailable("No model is ready.")),
            1 => Ok(all),
            _ => {
                let names: Vec<&str> = models.into_iter().map(String::as_str).collect();
                let message =
                    format!("'base_model_name' must be provided: {} are served.", names.join(", "));
                Err(ApiError::invalid_input(message))
            }
        };
    };
    all.retain(|endpoint| endpoint.info.model_names.iter().any(|name| name == base));
    match all.is_empty() {
        true => Err(ApiError::unknown_model(base, &[])),
        false => Ok(all),
    }
}

async fn ask(endpoint: &Endpoint, up: AdaptUp) -> Result<(), ApiError> {
    match converse(endpoint, up).await {
        Ok(AdaptDown::Done) => Ok(()),
        Ok(AdaptDown::Refused(error)) => Err(match error.kind {
            ErrorKind::BadRequest => ApiError::invalid_input(error.message),
            _ => error.into(),
        }),
        Err(error) => Err(ApiError::unavailable(format!("{}: {error}", endpoint.name))),
    }
}

async fn converse(endpoint: &Endpoint, up: AdaptUp) -> Result<AdaptDown, LinkError> {
    let stream = endpoint.connection.open(Conversation::Adapt, OPEN).await?;
    let Stream { mut sender, mut receiver } = stream;
    sender.send(&up, OPEN).await?;
    receiver.expect::<AdaptDown>(ANSWER).await
}

/// Waits until this gateway has heard of it from all, so that whoever asked can use it; not for
/// ever, because one may be gone meanwhile.
async fn told(directory: &Directory, all: &[Arc<Endpoint>], has_heard: impl Fn(&Endpoint) -> bool) {
    let mut changes = directory.changes();
    let heard = async {
        while !all.iter().all(|endpoint| has_heard(endpoint)) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(TOLD, heard).await.is_err() {
        tracing::debug!("an endpoint has not told of its adapters in time");
    }
}

/// For a leader to take a conversation.
const OPEN: Duration = Duration::from_secs(5);
/// For all members to read an adapter; the request's own time mostly ends before.
const ANSWER: Duration = Duration::from_secs(600);
/// Leaders tell of a change within some 50 ms.
const TOLD: Duration = Duration::from_secs(2);
