//! Writes services to the store, and waits until they serve.

use std::sync::Arc;

use serde_json::Value;
use troupe_actors::controller::desired::KIND;
use troupe_runtime::{
    discovery::{
        Op, Registry, Txn, WatchEvent,
        directory::{self, ServiceStatus},
        keys::Keys,
    },
    spec::ServiceSpec,
};

use crate::cli::Failure;

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
    let failed = |error: troupe_runtime::discovery::RegistryError| Failure::run(error.to_string());
    let stored = registry.get(&key).await.map_err(failed)?;
    let stored = stored.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    let generation = match &stored {
        Some(stored) if stored.get("spec") == document.get("spec") => return Ok(spec),
        Some(stored) => {
            1 + stored.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0)
        }
        None => 1,
    };
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".into(), generation.into());
    }
    let put = Op::Put(key, document.to_string().into_bytes());
    registry.commit(Txn { compare: Vec::new(), then: vec![put] }).await.map_err(failed)?;
    Ok(spec)
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
    let failed = |error: troupe_runtime::discovery::RegistryError| Failure::run(error.to_string());
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
