//! Writes services to the store, and waits until they serve.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use troupe_actors::controller::desired::KIND;
use troupe_runtime::{
    clock::rfc3339,
    discovery::{
        Compare, Op, Registry, Txn, WatchEvent,
        directory::{self, ServiceStatus},
        keys::Keys,
    },
    spec::ServiceSpec,
};

use uuid::Uuid;

use super::membership::{RACES, busy, failed};
use crate::{cli::Failure, client::operate::now};

/// Stores a service as it was declared; one that is there already and says the same stays as it is,
/// one that says something else gets the next generation.
pub(crate) async fn declare(
    registry: &Arc<dyn Registry>,
    keys: &Keys,
    mut document: Value,
) -> Result<ServiceSpec, Failure> {
    let (spec, _) = ServiceSpec::from_document(document.clone())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let key = keys.spec(KIND, &spec.metadata.namespace, &spec.metadata.name);
    for _ in 0..RACES {
        let life = registry.incarnation(&keys.incarnation()).await.map_err(failed)?;
        let entry = registry.get(&key).await.map_err(failed)?;
        let unchanged = match &entry {
            Some(entry) => Compare::Version(key.clone(), entry.version),
            None => Compare::Absent(key.clone()),
        };
        let stored = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        let generation = match &stored {
            Some(stored) if stored.get("spec") == document.get("spec") => return Ok(spec),
            Some(stored) => {
                1 + stored.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0)
            }
            None => 1,
        };
        if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), generation.into());
            let before = |field: &str| stored.as_ref()?.get("metadata")?.get(field).cloned();
            let uid = before("uid").unwrap_or_else(|| Uuid::now_v7().to_string().into());
            let created = before("creationTimestamp").unwrap_or_else(|| rfc3339(now()).into());
            metadata.insert("uid".into(), uid);
            metadata.insert("creationTimestamp".into(), created);
        }
        let put = Op::Put(key.clone(), document.to_string().into_bytes());
        let txn = Txn { compare: vec![life.compare(), unchanged], then: vec![put] };
        if registry.commit(txn).await.map_err(failed)? {
            return Ok(spec);
        }
        // Declared by another at the same time, or in another life of the store: look again.
    }
    Err(busy(&key))
}

/// Waits until so many hosts are there at one time.
pub(crate) async fn until_hosts(
    registry: &Arc<dyn Registry>,
    keys: &Keys,
    count: usize,
) -> Result<(), Failure> {
    let mut watch = registry.watch(&keys.nodes()).await.map_err(failed)?;
    let mut here = BTreeSet::new();
    while let Some(event) = watch.next().await {
        match event {
            WatchEvent::Put(entry) => drop(here.insert(entry.key)),
            WatchEvent::Delete(key) => drop(here.remove(&key)),
            WatchEvent::Synced | WatchEvent::Disconnected(_) | WatchEvent::Rewound => {}
        }
        if here.len() >= count {
            return Ok(());
        }
    }
    Err(Failure::run("the store is gone"))
}

/// Waits until a service has a group that serves, however often one has to be formed again, and
/// says why that was.
pub(crate) async fn until_serves(
    registry: &Arc<dyn Registry>,
    keys: &Keys,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    let key = keys.service_status(namespace, name);
    let mut watch = registry.watch(&key).await.map_err(failed)?;
    while let Some(event) = watch.next().await {
        let WatchEvent::Put(entry) = event else { continue };
        match directory::from_bytes::<ServiceStatus>(&entry.key, &entry.value) {
            Ok(status) if status.ready > 0 => return Ok(()),
            Ok(status) => tracing::info!(why = status.message, "the group does not serve yet"),
            Err(error) => tracing::error!(%error, "a record is left out"),
        }
    }
    Err(Failure::run("the store is gone"))
}

/// Waits until a service has a group that serves; fails with the controller's reason as soon as one
/// could not be formed.
pub(crate) async fn until_ready(
    registry: &Arc<dyn Registry>,
    keys: &Keys,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    let key = keys.service_status(namespace, name);
    let mut watch = registry.watch(&key).await.map_err(failed)?;
    while let Some(event) = watch.next().await {
        let WatchEvent::Put(entry) = event else { continue };
        let Ok(status) = directory::from_bytes::<ServiceStatus>(&entry.key, &entry.value) else {
            continue;
        };
        if status.ready > 0 {
            return Ok(());
        }
        if !status.message.is_empty() {
            return Err(Failure::run(status.message));
        }
    }
    Err(Failure::run("the store is gone"))
}
