//! A service that starts from configurations becomes one that is whole.
//!
//! The order is KServe's: presets, chosen by what the service is (one host or several, prefill
//! apart or not, a router, traces), then its `baseRefs` in order, then what it says itself; later
//! ones win. Then templates are filled in, and only then is anything checked that depends on
//! several fields. A configuration may start from others too, which come before it.

pub(super) mod merge;
mod presets;
mod shape;
mod template;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Finding, ServiceConfig, ServiceSpec, SpecError,
    finding::Findings,
    service::{self, Shape},
};

/// Where configurations are for everybody: they are looked for in the service's own namespace, then
/// here, and then among those that are built in.
pub const SYSTEM_NAMESPACE: &str = "kserve";

/// A service that is whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The service; its document is the merged one, which is for showing, not for storing.
    pub spec: ServiceSpec,
    /// What it was made of, from the weakest to the strongest.
    pub applied: Vec<AppliedConfig>,
    /// Fields and flags without effect, wherever they come from.
    pub warnings: Vec<Finding>,
}

/// A configuration that went into a service.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AppliedConfig {
    /// Its name.
    pub name: String,
    /// Where it was found.
    pub namespace: String,
    /// Why it was taken.
    pub source: ConfigSource,
}

/// Why a configuration was taken.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// By what the service is.
    Preset,
    /// The service, or a configuration of its, names it.
    UserRef,
}

/// Resolves a service; `lookup` finds a configuration by namespace and name.
///
/// # Errors
/// [`SpecError::ConfigNotFound`] if a configuration is not there, [`SpecError::Invalid`] with every
/// problem: a configuration that starts from itself, a template that cannot be filled in, a whole
/// that contradicts itself.
pub fn resolve(
    service: &ServiceSpec,
    lookup: impl Fn(&str, &str) -> Option<ServiceConfig>,
) -> Result<Resolved, SpecError> {
    let namespace = &service.metadata.namespace;
    let mut bases = Bases::new(namespace, &lookup, ConfigSource::UserRef);
    bases.add_all(&service.base_refs, &mut Vec::new());
    bases.check()?;
    let own = &service.document["spec"];
    let mut outline = Value::Object(serde_json::Map::new());
    for spec in bases.found.iter().map(|(config, _)| config.spec()).chain([own]) {
        merge::merge(&mut outline, spec);
    }
    let mut presets = Bases::new(namespace, &lookup, ConfigSource::Preset);
    presets.add_all(&shape::presets(&outline), &mut Vec::new());
    presets.check()?;

    let mut spec = Value::Object(serde_json::Map::new());
    let configs = || presets.found.iter().chain(&bases.found);
    for layer in configs().map(|(config, _)| config.spec()).chain([own]) {
        merge::merge(&mut spec, layer);
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("baseRefs");
    }
    shape::point_route(&mut spec, &service.metadata);
    let mut document = service.document.clone();
    document["spec"] = spec;
    let problems = template::fill(&mut document, own, &service.metadata);
    if !problems.is_empty() {
        return Err(SpecError::Invalid(problems));
    }
    let findings = Findings::default();
    let read = service::service(document, &findings, Some(Shape::Whole));
    let (spec, warnings) = findings.result(read)?;
    let applied = configs().map(|(_, applied)| applied.clone()).collect();
    Ok(Resolved { spec, applied, warnings })
}

/// The longest chain of configurations: they are followed by recursion.
const MAX_DEPTH: usize = 64;

/// Configurations by name, each after those that it starts from.
struct Bases<'a, L> {
    namespace: &'a str,
    lookup: &'a L,
    source: ConfigSource,
    found: Vec<(ServiceConfig, AppliedConfig)>,
    problems: Vec<Finding>,
    /// One of the problems is that a configuration is not there.
    missing: bool,
}

impl<'a, L: Fn(&str, &str) -> Option<ServiceConfig>> Bases<'a, L> {
    fn new(namespace: &'a str, lookup: &'a L, source: ConfigSource) -> Self {
        Self { namespace, lookup, source, found: Vec::new(), problems: Vec::new(), missing: false }
    }

    fn check(&mut self) -> Result<(), SpecError> {
        match (std::mem::take(&mut self.problems), self.missing) {
            (problems, _) if problems.is_empty() => Ok(()),
            (problems, true) => Err(SpecError::ConfigNotFound(problems)),
            (problems, false) => Err(SpecError::Invalid(problems)),
        }
    }

    /// Adds what is named; `path` are the configurations that led here, outermost first.
    fn add_all(&mut self, names: &[String], path: &mut Vec<String>) {
        for (at, name) in names.iter().enumerate() {
            let place = match (self.source, path.as_slice()) {
                (ConfigSource::Preset, _) => "spec".to_owned(),
                (_, []) => format!("spec.baseRefs[{at}]"),
                (_, path) => format!("spec.baseRefs, through {}", path.join(" and ")),
            };
            if path.contains(name) {
                let circle = format!("{} starts from itself: {}", name, circle(path, name));
                self.problems.push(Finding::new(place, circle));
                continue;
            }
            if path.len() == MAX_DEPTH {
                let message = format!("start from each other more than {MAX_DEPTH} deep");
                self.problems.push(Finding::new("spec.baseRefs", message));
                return;
            }
            // What is there already was laid down as early as its earliest reader wants it.
            if self.found.iter().any(|(config, _)| config.metadata.name == *name) {
                continue;
            }
            let Some((namespace, config)) = self.find(name) else {
                let places = match self.namespace {
                    SYSTEM_NAMESPACE => format!("in namespace {SYSTEM_NAMESPACE}"),
                    own => format!("in namespaces {own} and {SYSTEM_NAMESPACE}"),
                };
                let message = format!("there is no LLMInferenceServiceConfig {name} {places}");
                self.problems.push(Finding::new(place, message));
                self.missing = true;
                continue;
            };
            path.push(name.clone());
            self.add_all(&config.base_refs, path);
            path.pop();
            let applied = AppliedConfig { name: name.clone(), namespace, source: self.source };
            self.found.push((config, applied));
        }
    }

    fn find(&self, name: &str) -> Option<(String, ServiceConfig)> {
        let namespaces = [self.namespace, SYSTEM_NAMESPACE];
        let declared = namespaces
            .into_iter()
            .find_map(|namespace| Some((namespace.to_owned(), (self.lookup)(namespace, name)?)));
        declared.or_else(|| Some((SYSTEM_NAMESPACE.to_owned(), presets::find(name)?)))
    }
}

/// `a > b > a`.
fn circle(path: &[String], name: &str) -> String {
    let start = path.iter().position(|seen| seen == name).unwrap_or(0);
    let mut names: Vec<&str> = path[start..].iter().map(String::as_str).collect();
    names.push(name);
    names.join(" > ")
}

#[cfg(test)]
mod tests;
