//! What is odd about an object among the others: said as warnings, since it may be meant.

use serde_json::Value;
use troupe_runtime::{
    discovery::directory::ServiceStatus,
    spec::{Kind, ServiceSpec},
};

use super::{change::Stored, contents::Contents, desk::text};

/// What is odd about an object that is to be stored.
pub(super) fn about(contents: &Contents, kind: Kind, document: &Value) -> Vec<String> {
    let namespace = text(document, "/metadata/namespace");
    let name = text(document, "/metadata/name");
    let services = services(contents);
    match kind {
        Kind::LlmInferenceService => {
            let same = same_model(&services, document, (&namespace, &name));
            let rollout = under_way(contents, &namespace, &name);
            same.into_iter().chain(rollout).collect()
        }
        Kind::LeaderWorkerSet => {
            let served = services.iter().any(|service| {
                service.metadata.namespace == namespace && service.metadata.name == name
            });
            let warning = format!(
                "metadata.name: no LLMInferenceService is named {namespace}/{name}, so nothing \
                 follows this policy yet"
            );
            if served { Vec::new() } else { vec![warning] }
        }
        _ => Vec::new(),
    }
}

fn services(contents: &Contents) -> Vec<ServiceSpec> {
    let prefix = contents.keys.specs(Kind::LlmInferenceService.name());
    let documents = contents.under(&prefix).filter_map(|entry| Stored::of(&entry.value)?.document);
    documents.filter_map(|document| Some(ServiceSpec::from_document(document).ok()?.0)).collect()
}

/// Requests name models, not services: those of two services with one name go to either.
fn same_model(
    services: &[ServiceSpec],
    document: &Value,
    (namespace, name): (&str, &str),
) -> Option<String> {
    let (this, _) = ServiceSpec::from_document(document.clone()).ok()?;
    let other = services.iter().find(|other| {
        let same = other.metadata.namespace == namespace && other.metadata.name == name;
        !same && other.model_name() == this.model_name()
    })?;
    Some(format!(
        "spec.model.name: {}/{} serves a model named {} too; requests that name it go to either",
        other.metadata.namespace,
        other.metadata.name,
        this.model_name()
    ))
}

/// A rollout that has not ended goes on with what is declared now.
fn under_way(contents: &Contents, namespace: &str, name: &str) -> Option<String> {
    let key = contents.keys.service_status(namespace, name);
    let status: ServiceStatus = contents.record(&key)?;
    if status.updated >= status.replicas {
        return None;
    }
    Some(format!(
        "a rollout to revision {} is under way ({} of {} groups); groups that are not replaced yet \
         go to the new specification directly",
        status.revision, status.updated, status.replicas
    ))
}
