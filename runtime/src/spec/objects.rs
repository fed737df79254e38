//! The front door: a file of documents becomes typed objects, or everything that is wrong in it.
//!
//! A file holds YAML or JSON documents, several of them with `---` between, and lists
//! (`kind: List`), whose items count as documents. Where there are several, each finding says which
//! it is about: `document 2: spec.parallelism.tensor: ...`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Finding, SpecError,
    config::{self, ServiceConfig},
    document,
    finding::Findings,
    kind::Kind,
    lws::{self, LeaderWorkerSet},
    metadata::Metadata,
    objective::{self, InferenceModel, InferenceObjective},
    pool::{self, InferencePool},
    reader::alternatives,
    route::{self, HttpRoute},
    service::{self, ServiceSpec, Services},
};

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `LLMInferenceService`.
    Service(ServiceSpec),
    /// `LLMInferenceServiceConfig`.
    Config(ServiceConfig),
    /// `LeaderWorkerSet`.
    LeaderWorkerSet(LeaderWorkerSet),
    /// `InferencePool`.
    Pool(InferencePool),
    /// `InferenceModel`.
    Model(InferenceModel),
    /// `InferenceObjective`.
    Objective(InferenceObjective),
    /// `HTTPRoute`.
    Route(HttpRoute),
}

/// The objects of a file, with what has no effect in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// In the file's order.
    pub objects: Vec<Object>,
    /// Fields and flags without effect.
    pub warnings: Vec<Finding>,
}

/// Reads a file of one or more documents.
///
/// # Errors
/// [`SpecError`], with every problem of every document.
pub fn parse(text: &str) -> Result<Objects, SpecError> {
    read_all(document::read(text)?, Object::read)
}

// === impl Object ===

impl Object {
    /// Reads one document, as it was stored.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        Self::read(document)
    }

    fn read(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let name = document.get("kind").and_then(Value::as_str).map(str::to_owned);
        let Some(kind) = name.as_deref().and_then(Kind::of_document) else {
            return Err(SpecError::Invalid(vec![unknown_kind(&document, name.as_deref())]));
        };
        let findings = match kind {
            Kind::LlmInferenceServiceConfig => Findings::of_templates(),
            _ => Findings::default(),
        };
        let object = match kind {
            Kind::LlmInferenceService => {
                service::service(document, &findings, None).map(Self::Service)
            }
            Kind::LlmInferenceServiceConfig => config::read(document, &findings).map(Self::Config),
            Kind::LeaderWorkerSet => lws::read(document, &findings).map(Self::LeaderWorkerSet),
            Kind::InferencePool => pool::read(document, &findings).map(Self::Pool),
            Kind::InferenceModel => objective::read_model(document, &findings).map(Self::Model),
            Kind::InferenceObjective => {
                objective::read_objective(document, &findings).map(Self::Objective)
            }
            Kind::HttpRoute => route::read(document, &findings).map(Self::Route),
        };
        findings.result(object)
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::LlmInferenceService,
            Self::Config(_) => Kind::LlmInferenceServiceConfig,
            Self::LeaderWorkerSet(_) => Kind::LeaderWorkerSet,
            Self::Pool(_) => Kind::InferencePool,
            Self::Model(_) => Kind::InferenceModel,
            Self::Objective(_) => Kind::InferenceObjective,
            Self::Route(_) => Kind::HttpRoute,
        }
    }

    /// Who and what it is.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Service(object) => &object.metadata,
            Self::Config(object) => &object.metadata,
            Self::LeaderWorkerSet(object) => &object.metadata,
            Self::Pool(object) => &object.metadata,
            Self::Model(object) => &object.metadata,
            Self::Objective(object) => &object.metadata,
            Self::Route(object) => &object.metadata,
        }
    }

    /// As it was written, for storing and showing.
    pub fn document(&self) -> &Value {
        match self {
            Self::Service(object) => &object.document,
            Self::Config(object) => &object.document,
            Self::LeaderWorkerSet(object) => &object.document,
            Self::Pool(object) => &object.document,
            Self::Model(object) => &object.document,
            Self::Objective(object) => &object.document,
            Self::Route(object) => &object.document,
        }
    }

    fn identity(&self) -> (Kind, String, String) {
        let Metadata { namespace, name, .. } = self.metadata();
        (self.kind(), namespace.clone(), name.clone())
    }
}

/// Services only, for those who can do nothing with anything else.
pub(super) fn services(documents: Vec<Value>) -> Result<Services, SpecError> {
    let read = |document| {
        let (service, warnings) = ServiceSpec::from_document(document)?;
        Ok((Object::Service(service), warnings))
    };
    let Objects { objects, warnings } = read_all(documents, read)?;
    let services = objects.into_iter().filter_map(|object| match object {
        Object::Service(service) => Some(service),
        _ => None,
    });
    Ok(Services { services: services.collect(), warnings })
}

fn read_all(
    documents: Vec<Value>,
    read: impl Fn(Value) -> Result<(Object, Vec<Finding>), SpecError>,
) -> Result<Objects, SpecError> {
    let mut problems = Vec::new();
    if documents.is_empty() {
        problems.push(Finding::new("file", "holds no document"));
    }
    let mut objects = Vec::new();
    let mut warnings = Vec::new();
    let mut declared: BTreeMap<(Kind, String, String), String> = BTreeMap::new();
    for (label, document) in labeled(documents, &mut problems) {
        let inside = |finding: Finding| match label.is_empty() {
            true => finding,
            false => finding.inside(&label),
        };
        match read(document) {
            Ok((object, odd)) => {
                warnings.extend(odd.into_iter().map(inside));
                if let Some(first) = declared.insert(object.identity(), label.clone()) {
                    let Metadata { namespace, name, .. } = object.metadata();
                    let message = format!("{namespace}/{name} is declared by {first} already");
                    problems.push(inside(Finding::new("metadata.name", message)));
                }
                objects.push(object);
            }
            Err(SpecError::Invalid(wrong)) => problems.extend(wrong.into_iter().map(inside)),
            Err(error) => return Err(error),
        }
    }
    if !problems.is_empty() {
        return Err(SpecError::Invalid(problems));
    }
    Ok(Objects { objects, warnings })
}

/// Documents with what they are called in findings, which is nothing if there is only one. Items of
/// lists are documents.
fn labeled(documents: Vec<Value>, problems: &mut Vec<Finding>) -> Vec<(String, Value)> {
    let several = documents.len() > 1;
    let mut all = Vec::new();
    for (index, mut document) in documents.into_iter().enumerate() {
        let label = if several { format!("document {}", index + 1) } else { String::new() };
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
        let is_list = kind
            .strip_suffix("List")
            .is_some_and(|of| of.is_empty() || Kind::of_document(of).is_some());
        if !is_list {
            all.push((label, document));
            continue;
        }
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => {
                let before = if several { format!("{label} ") } else { String::new() };
                let items = items.into_iter().enumerate();
                all.extend(items.map(|(n, item)| (format!("{before}items[{n}]"), item)));
            }
            _ => {
                let finding = Finding::new("items", "must be a list");
                problems.push(if several { finding.inside(&label) } else { finding });
            }
        }
    }
    all
}

fn unknown_kind(document: &Value, name: Option<&str>) -> Finding {
    if !document.is_object() {
        return Finding::new("", "must be an object with apiVersion, kind, metadata and spec");
    }
    let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
    let kinds = alternatives(&kinds);
    match name {
        Some(name) => Finding::new("kind", format!("must be {kinds}, got {name}")),
        None => Finding::new("kind", format!("is required: {kinds}")),
    }
}

#[cfg(test)]
mod tests;
