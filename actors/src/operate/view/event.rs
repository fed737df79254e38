//! What happened, as Kubernetes' events have it.

use serde_json::{Value, json};
use troupe_runtime::{clock::rfc3339, discovery::directory::EventRecord};

use super::super::contents::Contents;

/// All events. One of an object that is in no namespace is in `default`, as in Kubernetes.
pub(super) fn objects(contents: &Contents) -> Vec<Value> {
    let prefix = contents.keys.events();
    let records = contents.records::<EventRecord>(&prefix).into_iter();
    records
        .map(|found| {
            let EventRecord { object, kind, reason, message, count, first, last } = found.record;
            let slot = found.key.strip_prefix(&prefix).unwrap_or_default();
            let namespace = match object.namespace.as_str() {
                "" => "default",
                namespace => namespace,
            };
            json!({
                "apiVersion": super::API_VERSION,
                "kind": "Event",
                "metadata": {
                    // A slot is used again: with the time of its first, the name is one event's.
                    "name": format!("{}.{slot}.{first:x}", object.name),
                    "namespace": namespace,
                    "creationTimestamp": rfc3339(first),
                    "resourceVersion": found.version.to_string(),
                },
                "involvedObject": object,
                "type": kind,
                "reason": reason,
                "message": message,
                "count": count,
                "firstTimestamp": rfc3339(first),
                "lastTimestamp": rfc3339(last),
            })
        })
        .collect()
}
