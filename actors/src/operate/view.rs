//! The documents that people see: what they declared with what became of it, and the cluster's own
//! objects. Pure: from what the store holds.

mod declared;
mod event;
mod group;
mod node;
mod serving;
mod status;
mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use troupe_runtime::wire::operate::{ObjectName, Selection};

pub(super) use declared::shown;
pub(super) use token::token;

use super::{contents::Contents, labels::Selector, resource::Resource};

/// The version of the cluster's own kinds.
pub(super) const API_VERSION: &str = "troupe.dev/v1";

/// Objects by name, in the order in which they are shown.
pub(super) type Objects = BTreeMap<ObjectName, Value>;

/// Objects of one kind, chosen by name, namespace and labels.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) selector: Selector,
}

// === impl Choice ===

impl Choice {
    /// Reads a selection.
    ///
    /// # Errors
    /// What in it cannot be, and what could.
    pub(super) fn new(selection: &Selection) -> Result<Self, String> {
        let resource = Resource::find(&selection.kind).ok_or_else(|| unknown(&selection.kind))?;
        let namespace = selection.namespace.clone().filter(|_| resource.namespaced());
        let selector = Selector::parse(&selection.labels)?;
        Ok(Self { resource, namespace, name: selection.name.clone(), selector })
    }

    /// The objects that are chosen.
    pub(super) fn of(&self, contents: &Contents) -> Objects {
        let all = all(contents, self.resource).into_iter();
        all.filter(|(name, document)| self.takes(name, document)).collect()
    }

    fn takes(&self, name: &ObjectName, document: &Value) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == name.namespace)
            && self.name.as_ref().is_none_or(|wanted| *wanted == name.name)
            && self.selector.matches(&labels(document))
    }
}

/// One object.
pub(super) fn one(contents: &Contents, object: &ObjectName) -> Option<Value> {
    let resource = Resource::find(&object.kind)?;
    let mut all = all(contents, resource).into_iter();
    all.find(|(name, _)| name == object).map(|(_, document)| document)
}

/// Why there is no such kind.
pub(super) fn unknown(kind: &str) -> String {
    format!("the server doesn't have a resource type \"{kind}\"")
}

/// All objects of a kind.
pub(super) fn all(contents: &Contents, resource: Resource) -> Vec<(ObjectName, Value)> {
    let documents = match resource {
        Resource::Declared(kind) => declared::objects(contents, kind),
        Resource::Node => node::objects(contents),
        Resource::Group => group::objects(contents),
        Resource::Gateway => serving::gateways(contents),
        Resource::Endpoint => serving::endpoints(contents),
        Resource::Event => event::objects(contents),
        Resource::Revision => declared::revisions(contents),
        Resource::Token => token::objects(contents),
    };
    documents.into_iter().map(|document| (name(resource, &document), document)).collect()
}

fn name(resource: Resource, document: &Value) -> ObjectName {
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
    let namespace = if resource.namespaced() { text("namespace") } else { "" };
    ObjectName::new(resource.kind(), namespace, text("name"))
}

fn labels(document: &Value) -> BTreeMap<String, String> {
    let labels = document.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// A document of the cluster's own.
fn own(resource: Resource, metadata: Value, spec: Value, status: Value) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": resource.kind(),
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}

#[cfg(test)]
mod tests;
