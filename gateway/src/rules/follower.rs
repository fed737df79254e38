//! Keeps the rules as the store has what they follow from.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::watch;
use troupe_runtime::{
    discovery::{Entry, Registry, Watch, WatchEvent, keys::Keys},
    error::chain,
    spec::Kind,
};

use super::{Rules, objects::Objects};
use crate::{
    foreign::upstream::Upstreams, holding::catalog::ServiceName, placement::keeper::Retry,
};

/// The rules that hold now, for whoever asks.
#[derive(Debug)]
pub(crate) struct RuleBook(watch::Sender<Arc<Rules>>);

/// Follows the store for ever; while that is away everything stays as it is. Foreign endpoints that
/// pools name are told to those who ask them.
pub(crate) async fn run(
    (book, foreign): (Arc<RuleBook>, Arc<Upstreams>),
    registry: Arc<dyn Registry>,
    keys: Keys,
) -> Infallible {
    let mut retry = Retry::default();
    loop {
        match registry.watch(&keys.all_specs()).await {
            Ok(watch) => {
                follow((&book, &foreign), &keys, watch).await;
                tracing::warn!("watch of declared objects ended");
            }
            Err(error) => tracing::warn!(error = chain(&error), "watch declared objects"),
        }
        retry.wait().await;
    }
}

async fn follow((book, foreign): (&RuleBook, &Upstreams), keys: &Keys, mut watch: Watch) {
    let mut objects = Objects::default();
    // What a watch tells first is everything: until then the rules are those of before.
    let mut complete = false;
    while let Some(event) = watch.next().await {
        match event {
            WatchEvent::Put(entry) => put(&mut objects, keys, &entry),
            WatchEvent::Delete(key) => {
                if let Some((kind, name)) = named(keys, &key) {
                    objects.gone(kind, &name);
                }
            }
            WatchEvent::Synced => complete = true,
            WatchEvent::Disconnected(_) | WatchEvent::Rewound => continue,
        }
        if complete {
            book.0.send_replace(Arc::new(objects.rules()));
            foreign.declare(&objects.foreign());
        }
    }
}

fn put(objects: &mut Objects, keys: &Keys, entry: &Entry) {
    let Some((kind, name)) = named(keys, &entry.key) else { return };
    if let Err(error) = objects.put(kind, name, &entry.value) {
        tracing::debug!(key = entry.key, error, "an object cannot be read and is left out");
    }
}

/// `specs/<kind>/<namespace>/<name>`.
fn named(keys: &Keys, key: &str) -> Option<(Kind, ServiceName)> {
    let kind = Kind::ALL.into_iter().find(|kind| key.starts_with(&keys.specs(kind.name())))?;
    let (namespace, name) = key.strip_prefix(&keys.specs(kind.name()))?.split_once('/')?;
    Some((kind, ServiceName { namespace: namespace.into(), name: name.into() }))
}

// === impl RuleBook ===

impl RuleBook {
    /// No rules yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }

    /// As they are now.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }
}
