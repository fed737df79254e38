//! `apiVersion`, `kind` and `metadata`, which every object has.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{finding::Findings, kind::Kind, reader::Fields};

/// The most bytes of one object as JSON. The store takes 1 MiB in one request, where an object
/// travels with its key, its comparisons and sometimes the object before it.
pub const MAX_OBJECT: usize = 512 << 10;

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Unique in its namespace.
    pub name: String,
    /// `default` if none is given.
    pub namespace: String,
    /// Counts changes of the specification; 0 if whoever wrote the file does not.
    pub generation: u64,
    /// What the writer had read before it wrote, if it says so: an older one is refused.
    pub resource_version: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Reads `apiVersion` and `metadata` of an object whose kind is known, and notes what no object may
/// be. The version is one of the kind's own.
pub(super) fn head(
    document: &Value,
    top: &Fields<'_>,
    kind: Kind,
    findings: &Findings,
) -> Option<(&'static str, Metadata)> {
    let version = top.required_text("apiVersion").and_then(|text| {
        let versions = kind.api_versions();
        let known = versions.iter().find(|version| **version == text).copied();
        if known.is_none() {
            let right = versions.join(" or ");
            top.problem("apiVersion", format!("must be {right}, got {text}"));
        }
        known
    });
    let _ = top.value("kind");
    // What a cluster wrote beside the specification is no concern of ours.
    let _ = top.value("status");
    let metadata = top.object("metadata").map(|fields| metadata(&fields, kind, findings));
    if top.value("metadata").is_none() {
        top.problem("metadata", "is required");
    }
    let bytes = document.to_string().len();
    if bytes > MAX_OBJECT {
        let message = format!("has {bytes} bytes as JSON, at most {MAX_OBJECT} can be stored");
        findings.problem("object", message);
    }
    Some((version?, metadata?))
}

fn metadata(fields: &Fields<'_>, kind: Kind, findings: &Findings) -> Metadata {
    let name = fields.required_text("name").unwrap_or_default();
    let namespace = fields.text("namespace").unwrap_or("default");
    let rules = [("name", name, kind.name_rule()), ("namespace", namespace, Kind::NAMESPACE)];
    for (key, text, rule) in rules {
        if !text.is_empty() {
            rule.check(text, fields.path(key), findings);
        }
    }
    for theirs in ["uid", "creationTimestamp", "managedFields", "finalizers", "ownerReferences"] {
        let _ = fields.value(theirs);
    }
    Metadata {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        generation: fields.number("generation", 0).unwrap_or_default(),
        resource_version: fields.scalar("resourceVersion"),
        labels: fields.texts("labels"),
        annotations: fields.texts("annotations"),
    }
}
