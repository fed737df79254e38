//! What people declared, with the version that it has now and what became of it.

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::directory::{RevisionRecord, ServiceStatus},
    spec::Kind,
};

use super::{
    super::{change::Stored, contents::Contents, resource::Resource},
    own, status,
};
use crate::controller::desired::ServiceName;

/// All objects of a kind that people declare.
pub(super) fn objects(contents: &Contents, kind: Kind) -> Vec<Value> {
    let prefix = contents.keys.specs(kind.name());
    let entries = contents.under(&prefix);
    let stored = entries.filter_map(|entry| Stored::of(&entry.value));
    stored.filter_map(|stored| with_status(contents, kind, stored)).collect()
}

fn with_status(contents: &Contents, kind: Kind, stored: Stored) -> Option<Value> {
    let mut document = shown(stored.document?, stored.generation);
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = ServiceName::new(&text("namespace"), &text("name"));
    let status_of = |name: &ServiceName| -> Option<ServiceStatus> {
        contents.record(&contents.keys.service_status(&name.namespace, &name.name))
    };
    let status = status_of(&name);
    document["status"] = match (kind, status) {
        (Kind::LlmInferenceService, Some(status)) => {
            status::of_service(&status, status_of(&name.prefill()).as_ref())
        }
        (Kind::LeaderWorkerSet, Some(status)) => status::of_set(&status),
        _ => return Some(document),
    };
    Some(document)
}

/// A stored object as people see it: it says its version, and its fields stand in the usual order.
pub(in crate::operate) fn shown(mut document: Value, generation: u64) -> Value {
    document["metadata"]["resourceVersion"] = json!(generation.to_string());
    let mut ordered = serde_json::Map::new();
    if let Some(fields) = document.as_object_mut() {
        for key in ["apiVersion", "kind", "metadata", "spec"] {
            ordered.extend(fields.shift_remove_entry(key));
        }
        ordered.append(fields);
    }
    ordered.into()
}

/// What services were declared as.
pub(super) fn revisions(contents: &Contents) -> Vec<Value> {
    let prefix = contents.keys.all_revisions();
    let records = contents.records::<RevisionRecord>(&prefix).into_iter();
    records
        .filter_map(|found| {
            let path = found.key.strip_prefix(&prefix)?;
            let mut parts = path.split('/');
            let (namespace, service) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            let RevisionRecord { number, document, launch, created, cause, .. } = found.record;
            let metadata = json!({
                "name": format!("{service}-{number}"),
                "namespace": namespace,
                "labels": {"troupe.dev/service": service},
                "creationTimestamp": rfc3339(created),
                "resourceVersion": found.version.to_string(),
            });
            let spec = json!({
                "service": service, "revision": number, "cause": cause, "document": document,
                "launch": launch,
            });
            Some(own(Resource::Revision, metadata, spec, json!({})))
        })
        .collect()
}
