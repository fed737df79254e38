//! What is odd about an object among the others: said as warnings, since it may be meant.

use serde_json::Value;
use troupe_runtime::{
    discovery::directory::ServiceStatus,
    spec::{Kind, ServiceConfig, ServiceSpec},
};

use super::{change::Stored, configs::Configs, contents::Contents, desk::text};

/// What became of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is stored like this.
    Stored,
    /// It is deleted.
    Deleted,
}

/// What is odd about an object that is to be stored or deleted.
pub(super) fn about(
    contents: &Contents,
    configs: &Configs,
    (kind, document): (Kind, &Value),
    fate: Fate,
) -> Vec<String> {
    let namespace = text(document, "/metadata/namespace");
    let name = text(document, "/metadata/name");
    let services = services(contents);
    match (kind, fate) {
        (Kind::LlmInferenceService, Fate::Stored) => {
            let same = same_model(&services, configs, document);
            let rollout = under_way(contents, &namespace, &name);
            same.into_iter().chain(rollout).collect()
        }
        (Kind::LlmInferenceServiceConfig, fate) => {
            let mut configs = configs.clone();
            match fate {
                Fate::Deleted => configs.remove(&namespace, &name),
                Fate::Stored => {
                    if let Ok((config, _)) = ServiceConfig::from_document(document.clone()) {
                        configs.add(config);
                    }
                }
            }
            broken(&services, &configs)
        }
        (Kind::LeaderWorkerSet, Fate::Stored) => {
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
fn same_model(services: &[ServiceSpec], configs: &Configs, document: &Value) -> Option<String> {
    let whole = |service: &ServiceSpec| configs.whole(service).ok();
    let this = whole(&ServiceSpec::from_document(document.clone()).ok()?.0)?;
    let (namespace, name) = (&this.metadata.namespace, &this.metadata.name);
    let mut others = services
        .iter()
        .filter(|other| (&other.metadata.namespace, &other.metadata.name) != (namespace, name));
    let same = |other: &&ServiceSpec| {
        whole(other).is_some_and(|other| other.model_name() == this.model_name())
    };
    let other = others.find(same)?;
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

/// Services that cannot be made from these configurations.
fn broken(services: &[ServiceSpec], configs: &Configs) -> Vec<String> {
    let broken = services.iter().filter_map(|service| {
        let why = configs.whole(service).err()?;
        let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
        Some(format!("{namespace}/{name} goes on as it is, but could not be formed anew: {why}"))
    });
    broken.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use troupe_runtime::discovery::{Entry, directory, keys::Keys};

    use super::*;

    fn object(kind: Kind, name: &str, spec: Value) -> Value {
        json!({
            "apiVersion": kind.api_versions().last().expect("one"),
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": "default", "generation": 1},
            "spec": spec,
        })
    }

    fn service(name: &str, spec: Value) -> Value {
        object(Kind::LlmInferenceService, name, spec)
    }

    fn warned(stored: &[Value], status: Option<ServiceStatus>, new: &Value, fate: Fate) -> String {
        let keys = Keys::new("test");
        let mut entries: Vec<(String, Vec<u8>)> = stored
            .iter()
            .map(|document| {
                let key = keys.spec(
                    &text(document, "/kind"),
                    "default",
                    &text(document, "/metadata/name"),
                );
                (key, document.to_string().into_bytes())
            })
            .collect();
        let status = status.map(directory::to_bytes);
        entries.extend(status.map(|status| (keys.service_status("default", "a"), status)));
        let mut contents = Contents::new(keys);
        contents.add(entries.into_iter().map(|(key, value)| Entry { key, value, version: 1 }));
        let kind = Kind::find(&text(new, "/kind")).expect("a kind");
        about(&contents, &Configs::of(&contents), (kind, new), fate).join("\n")
    }

    #[test]
    fn one_model_name_of_two_services_is_said_and_so_is_a_rollout() {
        let model = json!({"model": {"uri": "file:///m", "name": "m"}});
        let (a, b) = (service("a", model.clone()), service("b", model));
        assert_eq!(warned(&[], None, &a, Fate::Stored), "");
        assert_eq!(warned(std::slice::from_ref(&a), None, &a, Fate::Stored), "", "not of itself");
        let two = warned(&[b], None, &a, Fate::Stored);
        assert!(two.contains("default/b serves a model named m too"), "{two}");
        let status = ServiceStatus { replicas: 3, updated: 1, revision: 4, ..Default::default() };
        let rollout = warned(&[], Some(status), &a, Fate::Stored);
        assert!(rollout.contains("revision 4 is under way (1 of 3 groups)"), "{rollout}");
    }

    #[test]
    fn a_configuration_that_services_need_is_not_lost_unsaid() {
        let kind = Kind::LlmInferenceServiceConfig;
        let base = object(kind, "base", json!({"model": {"uri": "file:///m", "name": "m"}}));
        let user = service("a", json!({"baseRefs": [{"name": "base"}]}));
        let stored = [base.clone(), user];
        assert_eq!(warned(&stored, None, &base, Fate::Stored), "");
        let gone = warned(&stored, None, &base, Fate::Deleted);
        assert!(gone.contains("default/a goes on as it is") && gone.contains("base"), "{gone}");
    }

    #[test]
    fn a_policy_without_a_service_is_said() {
        let set = object(Kind::LeaderWorkerSet, "a", json!({}));
        let alone = warned(&[], None, &set, Fate::Stored);
        assert!(alone.contains("no LLMInferenceService is named default/a"), "{alone}");
        let served = service("a", json!({"model": {"uri": "file:///m"}}));
        assert_eq!(warned(&[served], None, &set, Fate::Stored), "");
    }
}
