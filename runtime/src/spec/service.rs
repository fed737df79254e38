//! `LLMInferenceService`: what a user wants served, as KServe writes it.
//!
//! Both of its API versions are read. What depends on several fields is only held against a service
//! that is whole: one that starts from configurations (`baseRefs`) is checked once they are merged,
//! when they are resolved.

mod offload;
mod read;
mod router;
mod scaling;

use std::collections::BTreeMap;

use serde_json::Value;

pub(super) use self::read::{Shape, service, service_spec};
pub use self::{
    offload::{Eviction, FileTier, KvOffload},
    router::{PoolSource, Router, Scheduler, ServiceRoute},
    scaling::{Scaling, ScalingPolicy, ScalingRules, ScalingStep, ScalingTarget, SelectPolicy},
};
use super::{
    Finding, SpecError, document,
    finding::Findings,
    kind::Kind,
    lws::LeaderWorkerSet,
    metadata::Metadata,
    objects,
    pod::PodSpec,
    policy::{GroupPolicy, PolicyOverrides},
};
use crate::model::config::ModelConfig;

/// The kind under which services are stored.
pub const KIND: &str = "LLMInferenceService";

/// After the name of a service, the side of it that prefills. Nobody declares such a name, because
/// declared ones have no dot.
pub const PREFILL_SIDE: &str = ".prefill";

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
    /// How it is reached.
    pub router: Option<Router>,
    /// Where traces of its requests go.
    pub tracing: Option<Tracing>,
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

impl AdapterSpec {
    /// The name that requests use.
    pub fn served_name(&self) -> &str {
        let end = || self.uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        self.name.as_deref().unwrap_or_else(end)
    }
}

/// How a model is served: `spec` itself, and `spec.prefill`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadSpec {
    /// Groups that are wanted, unless `scaling` decides.
    pub replicas: u32,
    /// How many there are when load decides.
    pub scaling: Option<Scaling>,
    /// How a group is divided.
    pub parallelism: Parallelism,
    /// The leader's pod.
    pub template: Option<PodSpec>,
    /// The other members' pods.
    pub worker: Option<PodSpec>,
    /// What is said of how its groups live; [`WorkloadSpec::group_policy`] has all of it.
    pub policy: PolicyOverrides,
    /// Where keys and values go that do not fit the device.
    pub kv_offload: Option<KvOffload>,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its pods.
    pub annotations: BTreeMap<String, String>,
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

/// `spec.tracing`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracing {
    /// Where spans go.
    pub endpoint: Option<String>,
    /// OpenTelemetry's name of the sampler.
    pub sampler: Option<String>,
    /// Its argument: the share of the requests.
    pub sampler_arg: Option<String>,
    /// OpenTelemetry's name of the exporter.
    pub exporter: Option<String>,
}

impl Services {
    /// Reads a file of one or more documents.
    ///
    /// # Errors
    /// [`SpecError`], with every problem of every document.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        objects::services(document::read(text)?)
    }
}

impl ServiceSpec {
    /// Reads one document, as it was stored.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let service = service(document, &findings, None);
        findings.result(service)
    }

    /// The name that requests use for the model.
    pub fn model_name(&self) -> &str {
        self.model.name.as_deref().unwrap_or(&self.metadata.name)
    }

    /// Labels by which pools select it: its own, those of its pods, and the ones KServe gives.
    pub fn pool_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.metadata.labels.clone();
        labels.extend(self.workload.labels.clone());
        labels.insert("app.kubernetes.io/name".into(), self.metadata.name.clone());
        labels.insert("app.kubernetes.io/part-of".into(), "llminferenceservice".into());
        labels.insert("kserve.io/component".into(), "workload".into());
        labels
    }

    /// What of the parallelism this model does not allow; empty if all is well.
    pub fn check_model(&self, model: &ModelConfig) -> Vec<Finding> {
        let sides = [("spec", Some(&self.workload)), ("spec.prefill", self.prefill.as_ref())];
        let mut findings = Vec::new();
        for (path, side) in sides.into_iter().filter_map(|(path, side)| Some((path, side?))) {
            let Parallelism { tensor, pipeline, expert, .. } = side.parallelism;
            let experts = model.check_expert_parallel(tensor as usize);
            if let (true, Err(error)) = (expert, experts) {
                let path = format!("{path}.parallelism.expert");
                findings.push(Finding::new(path, error.to_string()));
            }
            if let Err(error) = model.check_tensor_parallel(tensor as usize) {
                findings
                    .push(Finding::new(format!("{path}.parallelism.tensor"), error.to_string()));
            }
            if pipeline as usize > model.num_layers {
                let message =
                    format!("must be at most the {} layers, got {pipeline}", model.num_layers);
                findings.push(Finding::new(format!("{path}.parallelism.pipeline"), message));
            }
        }
        findings
    }
}

impl WorkloadSpec {
    /// How its groups live: what the service says, over the `LeaderWorkerSet` of its name.
    pub fn group_policy(&self, set: Option<&LeaderWorkerSet>) -> GroupPolicy {
        self.policy.over(set)
    }

    /// How many groups there are at the start.
    pub fn initial_replicas(&self) -> u32 {
        self.scaling.as_ref().map_or(self.replicas, |scaling| scaling.min_replicas)
    }
}

impl Parallelism {
    /// How many devices a group needs.
    pub fn devices(&self) -> u64 {
        u64::from(self.tensor) * u64::from(self.pipeline) * u64::from(self.data)
    }
}

impl Criticality {
    /// The API's words.
    pub(super) const WORDS: [(&'static str, Self); 3] = [
        ("Critical", Self::Critical),
        ("Standard", Self::Standard),
        ("Sheddable", Self::Sheddable),
    ];
}

impl Default for Parallelism {
    fn default() -> Self {
        Self { tensor: 1, pipeline: 1, data: 1, data_local: None, expert: false }
    }
}

#[cfg(test)]
mod tests;
