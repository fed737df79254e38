//! `LLMInferenceService`: what a user wants served, as KServe writes it.
//!
//! Both of its API versions are read. Pod templates, routers and configurations to start from
//! (`baseRefs`) are kept as they are for whoever understands them; out of a template only the
//! engine's flags and the resource limits are read, from the container `main` or else the first.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    EngineFlags, Finding, args,
    document::{self, DocumentError},
    reader::{Fields, Findings, scalar},
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
            services.extend(service(document, &found));
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
        let service = service(document, &findings);
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

/// `None` only together with a problem.
fn service(document: Value, findings: &Findings) -> Option<ServiceSpec> {
    let (api_version, metadata, model, workload, prefill, router, base_refs) = {
        let top = Fields::of(&document, String::new(), findings)?;
        let api_version = api_version(&top);
        match top.required_text("kind") {
            Some(KIND) | None => {}
            Some(other) => {
                top.problem("kind", format!("must be {KIND}, got {other}"));
                top.opaque();
                return None;
            }
        }
        // What a cluster wrote beside the specification is no concern of ours.
        let _ = top.value("status");
        let metadata = top.object("metadata").map(|fields| metadata(&fields));
        if top.value("metadata").is_none() {
            top.problem("metadata", "is required");
        }
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let model = spec.object("model").map(|fields| model(&fields, api_version));
        if spec.value("model").is_none() && spec.value("baseRefs").is_none() {
            spec.problem("model", "is required");
        }
        let workload = workload(&spec, findings);
        let prefill = spec.object("prefill").map(|fields| workload_apart(&fields, findings));
        let router = spec.value("router").cloned();
        for beside in KUBERNETES_ONLY {
            if spec.value(beside).is_some() {
                spec.warn(beside, "has no effect outside Kubernetes");
            }
        }
        let base_refs = base_refs(&spec);
        (api_version, metadata, model, workload, prefill, router, base_refs)
    };
    Some(ServiceSpec {
        document,
        api_version: api_version?,
        metadata: metadata?,
        model: model.unwrap_or_default(),
        workload,
        prefill,
        router,
        base_refs,
    })
}

/// Fields of `spec` that only say something about Kubernetes.
const KUBERNETES_ONLY: [&str; 4] = ["storageInitializer", "tracing", "labels", "annotations"];

fn api_version(top: &Fields<'_>) -> Option<ApiVersion> {
    match top.required_text("apiVersion")? {
        "serving.kserve.io/v1alpha1" => Some(ApiVersion::V1Alpha1),
        "serving.kserve.io/v1alpha2" => Some(ApiVersion::V1Alpha2),
        other => {
            let right = "must be serving.kserve.io/v1alpha1 or serving.kserve.io/v1alpha2";
            top.problem("apiVersion", format!("{right}, got {other}"));
            None
        }
    }
}

fn metadata(fields: &Fields<'_>) -> Metadata {
    let name = fields.required_text("name").unwrap_or_default();
    let namespace = fields.text("namespace").unwrap_or("default");
    for (key, text) in [("name", name), ("namespace", namespace)] {
        if !text.is_empty() && !is_label(text) {
            let right = "must be 1 to 63 of a-z, 0-9 and -, a letter or digit at both ends";
            fields.problem(key, format!("{right}, got {text}"));
        }
    }
    for theirs in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "finalizers"] {
        let _ = fields.value(theirs);
    }
    Metadata {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        generation: fields.count("generation", 0).unwrap_or_default().into(),
        labels: fields.texts("labels"),
        annotations: fields.texts("annotations"),
    }
}

/// Names become parts of keys, host names and labels, so they are what all of those allow.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte))
        && ends(bytes.first())
        && ends(bytes.last())
}

fn model(fields: &Fields<'_>, api_version: Option<ApiVersion>) -> ModelSpec {
    let uri = fields.required_text("uri").unwrap_or_default();
    check_scheme(fields, uri);
    let criticality = fields.text("criticality").and_then(|text| match text {
        "Critical" => Some(Criticality::Critical),
        "Standard" => Some(Criticality::Standard),
        "Sheddable" => Some(Criticality::Sheddable),
        other => {
            let right = "must be Critical, Standard or Sheddable";
            fields.problem("criticality", format!("{right}, got {other}"));
            None
        }
    });
    if criticality.is_some() && api_version == Some(ApiVersion::V1Alpha2) {
        fields.warn("criticality", "is a field of v1alpha1; it is honored all the same");
    }
    if fields.value("confidential").is_some() {
        fields.warn("confidential", "has no effect outside Kubernetes");
    }
    let lora = fields.object("lora").map(|lora| LoraSpec {
        adapters: {
            let adapters = lora.list("adapters").into_iter();
            adapters.filter_map(|(path, value)| adapter(&lora.at(path, value)?)).collect()
        },
        max_rank: lora.count("maxRank", 1),
        max_adapters: lora.count("maxAdapters", 1),
        max_cpu_adapters: lora.count("maxCpuAdapters", 1),
    });
    let name = fields.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    ModelSpec { uri: uri.to_owned(), name, criticality, lora }
}

fn adapter(fields: &Fields<'_>) -> Option<AdapterSpec> {
    let uri = fields.required_text("uri")?.to_owned();
    check_scheme(fields, &uri);
    Some(AdapterSpec { name: fields.text("name").map(str::to_owned), uri })
}

/// Where models can be; a text without a scheme is a folder or a name on the hub.
const SCHEMES: [&str; 8] = ["hf", "s3", "gs", "http", "https", "file", "oci", "pvc"];

fn check_scheme(fields: &Fields<'_>, uri: &str) {
    if let Some((scheme, _)) = uri.split_once("://")
        && !SCHEMES.contains(&scheme)
    {
        let known = SCHEMES.join(", ");
        fields.problem("uri", format!("has the scheme {scheme}, known are {known}"));
    }
}

fn workload_apart(fields: &Fields<'_>, findings: &Findings) -> WorkloadSpec {
    for theirs in ["labels", "annotations"] {
        let _ = fields.value(theirs);
    }
    workload(fields, findings)
}

fn workload(fields: &Fields<'_>, findings: &Findings) -> WorkloadSpec {
    let replicas = fields.count("replicas", 0);
    let scaling = fields.value("scaling").cloned();
    if replicas.is_some() && scaling.is_some() {
        fields.problem("replicas", "must not be given together with scaling");
    }
    for beside in ["rolloutStrategy", "kvCacheOffloading"] {
        if fields.value(beside).is_some() {
            fields.warn(beside, "has no effect yet");
        }
    }
    WorkloadSpec {
        replicas: replicas.unwrap_or(1),
        scaling,
        parallelism: fields.object("parallelism").map(|p| parallelism(&p)).unwrap_or_default(),
        template: fields.object("template").map(|pod| pod_spec(pod, findings)),
        worker: fields.object("worker").map(|pod| pod_spec(pod, findings)),
    }
}

fn parallelism(fields: &Fields<'_>) -> Parallelism {
    let count = |key| fields.count(key, 1);
    if fields.value("dataRPCPort").is_some() {
        fields.warn("dataRPCPort", "has no effect: ports are found, not told");
    }
    let (pipeline, data, data_local) = (count("pipeline"), count("data"), count("dataLocal"));
    if fields.value("pipeline").is_some() && fields.value("data").is_some() {
        fields.problem("pipeline", "must not be given together with data");
    }
    match (data, data_local) {
        (Some(data), Some(local)) if data % local != 0 => {
            let message = format!("must divide data, got {local} and data {data}");
            fields.problem("dataLocal", message);
        }
        (None, Some(_)) if fields.value("data").is_none() => {
            fields.problem("dataLocal", "must not be given without data");
        }
        _ => {}
    }
    Parallelism {
        tensor: count("tensor").unwrap_or(1),
        pipeline: pipeline.unwrap_or(1),
        data: data.unwrap_or(1),
        data_local,
        expert: fields.flag("expert").unwrap_or(false),
    }
}

fn pod_spec(fields: Fields<'_>, findings: &Findings) -> PodSpec {
    let mut pod = PodSpec { document: fields.document(), ..PodSpec::default() };
    let containers = fields.list("containers");
    let main = containers.iter().find(|(_, container)| container["name"] == "main");
    if let Some((path, container)) = main.or(containers.first())
        && let Some(container) = fields.at(path.clone(), container)
    {
        for (path, value) in container.list("args") {
            match scalar(value) {
                Some(arg) => pod.args.push(arg),
                None => findings.problem(path, "must be text"),
            }
        }
        pod.flags = args::read(&pod.args, &container.path("args"), findings);
        if let Some(resources) = container.object("resources") {
            pod.limits = resources.texts("limits");
            resources.opaque();
        }
        container.opaque();
    }
    fields.opaque();
    pod
}

fn base_refs(spec: &Fields<'_>) -> Vec<String> {
    let refs = spec.list("baseRefs").into_iter();
    let refs = refs.filter_map(|(path, value)| spec.at(path, value));
    refs.filter_map(|fields| fields.required_text("name").map(str::to_owned)).collect()
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
