//! `LLMInferenceService`: what a user wants served, as KServe writes it.
//!
//! Both of its API versions are read. Pod templates, routers and configurations to start from
//! (`baseRefs`) are kept as they are for whoever understands them; out of a template only the
//! engine's flags and the resource limits are read, from the container `main` or else the first.

mod read;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    EngineFlags, Finding,
    document::{self, DocumentError},
    reader::Findings,
};

/// The one kind that is read here.
pub const KIND: &str = "LLMInferenceService";

/// Services of a file, with what has no effect in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Services {
    /// In the file's order.
    pub services: Vec<ServiceSpec>,
    /// Fields and flags without effect.
    pub warnings: Vec<Finding>,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Which version of the API it was written for.
    pub api_version: ApiVersion,
    /// Who and what it is.
    pub metadata: Metadata,
    /// What is served.
    pub model: ModelSpec,
    /// How; of a service with `prefill` the side that decodes.
    pub workload: WorkloadSpec,
    /// The side that prefills, if that is apart.
    pub prefill: Option<WorkloadSpec>,
    /// `spec.router`.
    pub router: Option<Value>,
    /// Names of the configurations that this one starts from, in order.
    pub base_refs: Vec<String>,
}

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVersion {
    /// `serving.kserve.io/v1alpha1`.
    V1Alpha1,
    /// `serving.kserve.io/v1alpha2`.
    V1Alpha2,
}

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Unique in its namespace.
    pub name: String,
    /// `default` if none is given.
    pub namespace: String,
    /// Counts changes of the specification; 0 if whoever wrote the file does not.
    pub generation: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// `spec.model`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// Where it is: `hf://org/name`, a folder and so on.
    pub uri: String,
    /// The name that requests use; the service's own if none is given.
    pub name: Option<String>,
    /// How much it matters (v1alpha1).
    pub criticality: Option<Criticality>,
    /// Adapters.
    pub lora: Option<LoraSpec>,
}

/// What goes first when not everything can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Criticality {
    /// Dropped first.
    Sheddable,
    /// The usual.
    Standard,
    /// Never dropped for others.
    Critical,
}

/// `spec.model.lora`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoraSpec {
    /// Adapters that are there from the start.
    pub adapters: Vec<AdapterSpec>,
    /// The largest rank of any.
    pub max_rank: Option<u32>,
    /// The most in one step.
    pub max_adapters: Option<u32>,
    /// The most in the host's memory.
    pub max_cpu_adapters: Option<u32>,
}

/// One adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterSpec {
    /// The name that requests use; the end of its URI if none is given.
    pub name: Option<String>,
    /// Where it is.
    pub uri: String,
}

/// How a model is served: `spec` itself, and `spec.prefill`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadSpec {
    /// Groups that are wanted, unless `scaling` decides.
    pub replicas: u32,
    /// `scaling`.
    pub scaling: Option<Value>,
    /// How a group is divided.
    pub parallelism: Parallelism,
    /// The leader's pod.
    pub template: Option<PodSpec>,
    /// The other members' pods.
    pub worker: Option<PodSpec>,
}

/// How a group is divided; each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallelism {
    /// Ranks per stage.
    pub tensor: u32,
    /// Stages.
    pub pipeline: u32,
    /// Data-parallel ranks.
    pub data: u32,
    /// Data-parallel ranks on one host; all of them if not given.
    pub data_local: Option<u32>,
    /// Whether experts are divided over tensor and data ranks.
    pub expert: bool,
}

/// A pod as Kubernetes has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSpec {
    /// All of it.
    pub document: Value,
    /// The engine's `args`.
    pub args: Vec<String>,
    /// What of them is known.
    pub flags: EngineFlags,
    /// The engine's `resources.limits`.
    pub limits: BTreeMap<String, String>,
}

/// Why a file holds no services.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is no list of documents.
    #[error("not a specification")]
    Document(#[from] DocumentError),
    /// Everything that is wrong in it, one per line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
}

impl Services {
    /// Reads a file of one or more documents.
    ///
    /// # Errors
    /// [`SpecError`], with every problem of every document.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let documents = document::read(text)?;
        let findings = Findings::default();
        if documents.is_empty() {
            findings.problem("file", "holds no document");
        }
        let several = documents.len() > 1;
        let mut services = Vec::new();
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for (index, document) in documents.into_iter().enumerate() {
            let found = Findings::default();
            services.extend(read::service(document, &found));
            let prefixed = |finding: Finding| match several {
                true => {
                    let path = format!("document {}: {}", index + 1, finding.path);
                    Finding { path, ..finding }
                }
                false => finding,
            };
            let (wrong, odd) = found.into_parts();
            problems.extend(wrong.into_iter().map(prefixed));
            warnings.extend(odd.into_iter().map(prefixed));
        }
        problems.extend(findings.into_parts().0);
        if !problems.is_empty() {
            return Err(SpecError::Invalid(problems));
        }
        Ok(Self { services, warnings })
    }
}

impl ServiceSpec {
    /// Reads one document, as it was stored.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let service = read::service(document, &findings);
        let (problems, warnings) = findings.into_parts();
        match service {
            Some(service) if problems.is_empty() => Ok((service, warnings)),
            _ => Err(SpecError::Invalid(problems)),
        }
    }

    /// The name that requests use for the model.
    pub fn model_name(&self) -> &str {
        self.model.name.as_deref().unwrap_or(&self.metadata.name)
    }
}

impl Default for Parallelism {
    fn default() -> Self {
        Self { tensor: 1, pipeline: 1, data: 1, data_local: None, expert: false }
    }
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
