//! From a document's fields to a typed service, noting all that is wrong on the way.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    AdapterSpec, ApiVersion, Criticality, KIND, Kind, LoraSpec, ModelSpec, Parallelism,
    PolicyOverrides, ServiceSpec, Tracing, WorkloadSpec, offload, router, scaling,
};
use crate::spec::{
    finding::Findings,
    metadata,
    pod::{self, ParallelFlags, PodSpec},
    reader::Fields,
};

/// How much of a service a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::spec) enum Shape {
    /// All of it: what depends on several fields can be checked.
    Whole,
    /// A part: the rest comes from configurations, or it is one.
    Part,
}

/// Reads a service; it is whole if it starts from nothing, unless the caller knows.
///
/// `None` only together with a problem.
pub(in crate::spec) fn service(
    document: Value,
    findings: &Findings,
    shape: Option<Shape>,
) -> Option<ServiceSpec> {
    let mut service = {
        let top = Fields::of(&document, String::new(), findings)?;
        match top.required_text("kind") {
            Some(KIND) | None => {}
            Some(other) => {
                let _ = top.required_text("apiVersion");
                top.problem("kind", format!("must be {KIND}, got {other}"));
                top.opaque();
                return None;
            }
        }
        let head = metadata::head(&document, &top, Kind::LlmInferenceService, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let starts_from_others = spec.value("baseRefs").is_some();
        let shape = shape.unwrap_or(match starts_from_others {
            true => Shape::Part,
            false => Shape::Whole,
        });
        let api_version = head.as_ref().map(|(version, _)| api_version(version));
        let (_, metadata) = head.unzip();
        let metadata = metadata.unwrap_or_default();
        let mut service = service_spec(&spec, api_version, &metadata.annotations, shape);
        service.metadata = metadata;
        service.api_version = api_version?;
        service
    };
    service.document = document;
    Some(service)
}

fn api_version(text: &str) -> ApiVersion {
    match text.ends_with("/v1alpha1") {
        true => ApiVersion::V1Alpha1,
        false => ApiVersion::V1Alpha2,
    }
}

/// `spec` of a service or of a configuration.
pub(in crate::spec) fn service_spec(
    spec: &Fields<'_>,
    api_version: Option<ApiVersion>,
    annotations: &BTreeMap<String, String>,
    shape: Shape,
) -> ServiceSpec {
    let whole = shape == Shape::Whole;
    let model = spec.object("model").map(|fields| model(&fields, api_version, whole));
    if whole && spec.value("model").is_none() {
        spec.problem("model", "is required");
    }
    let noted = Noted { annotations, whole };
    let workload = workload(spec, &noted);
    let prefill = spec.object("prefill").map(|fields| self::workload(&fields, &noted));
    let router = spec.object("router").map(|fields| router::router(&fields, whole));
    let tracing = spec.object("tracing").map(|fields| tracing(&fields));
    if let Some(initializer) = spec.object("storageInitializer") {
        let _ = initializer.flag("enabled");
        spec.warn("storageInitializer", "has no effect: each host finds the model by its URI");
    }
    ServiceSpec {
        document: Value::Null,
        api_version: api_version.unwrap_or(ApiVersion::V1Alpha2),
        metadata: metadata::Metadata::default(),
        model: model.unwrap_or_default(),
        workload,
        prefill,
        router,
        tracing,
        base_refs: base_refs(spec),
    }
}

/// `baseRefs`.
fn base_refs(spec: &Fields<'_>) -> Vec<String> {
    let names = router::names(spec, "baseRefs");
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            spec.problem("baseRefs", format!("must not name {name} twice"));
        }
    }
    names
}

fn model(fields: &Fields<'_>, api_version: Option<ApiVersion>, whole: bool) -> ModelSpec {
    let uri = match whole {
        true => fields.required_text("uri"),
        false => fields.text("uri"),
    };
    let uri = uri.unwrap_or_default();
    check_scheme(fields, uri);
    let criticality = fields.one_of("criticality", &Criticality::WORDS);
    if criticality.is_some() && api_version == Some(ApiVersion::V1Alpha2) {
        fields.warn("criticality", "is a field of v1alpha1; it is honored all the same");
    }
    fields.without_effect(&["confidential"], " outside Kubernetes");
    let name = fields.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let lora = fields.object("lora").map(|lora| LoraSpec {
        adapters: adapters(&lora, name.as_deref()),
        max_rank: lora.count("maxRank", 1),
        max_adapters: lora.count("maxAdapters", 1),
        max_cpu_adapters: lora.count("maxCpuAdapters", 1),
    });
    ModelSpec { uri: uri.to_owned(), name, criticality, lora }
}

fn adapters(lora: &Fields<'_>, model: Option<&str>) -> Vec<AdapterSpec> {
    let mut adapters: Vec<AdapterSpec> = Vec::new();
    for fields in lora.objects("adapters") {
        let uri = fields.required_text("uri").unwrap_or_default().to_owned();
        check_scheme(&fields, &uri);
        let name = fields.text("name").map(str::to_owned);
        if let Some(name) = name.as_deref() {
            if [".", "..", ""].contains(&name) {
                fields.problem("name", format!("must not be `{name}`"));
            }
            if Some(name) == model {
                fields.problem("name", format!("must differ from the model's, {name}"));
            }
            if adapters.iter().any(|other| other.name.as_deref() == Some(name)) {
                fields.problem("name", format!("must differ from the other adapters', got {name}"));
            }
        }
        adapters.push(AdapterSpec { name, uri });
    }
    adapters
}

/// Where models can be; a text without a scheme is a folder or a name on the hub.
const SCHEMES: [&str; 8] = ["hf", "s3", "gs", "http", "https", "file", "oci", "pvc"];

fn check_scheme(fields: &Fields<'_>, uri: &str) {
    if let Some((scheme, _)) = uri.split_once("://")
        && !SCHEMES.contains(&scheme)
        && !fields.findings().is_template(uri)
    {
        let known = SCHEMES.join(", ");
        fields.problem("uri", format!("has the scheme {scheme}, known are {known}"));
    }
}

fn tracing(fields: &Fields<'_>) -> Tracing {
    Tracing {
        endpoint: fields.scalar("exporterEndpoint"),
        sampler: fields.scalar("sampler"),
        sampler_arg: fields.scalar("samplerArg"),
        exporter: fields.scalar("exporter"),
    }
}

/// What holds for both workloads of a service.
struct Noted<'a> {
    /// The service's own annotations.
    annotations: &'a BTreeMap<String, String>,
    whole: bool,
}

fn workload(fields: &Fields<'_>, noted: &Noted<'_>) -> WorkloadSpec {
    let whole = noted.whole;
    let replicas = fields.count("replicas", 0);
    if fields.value("replicas").is_some() && fields.value("scaling").is_some() {
        fields.problem("replicas", "must not be given together with scaling");
    }
    let annotations = fields.texts("annotations");
    let maps = [
        ("metadata.annotations".to_owned(), noted.annotations),
        (fields.path("annotations"), &annotations),
    ];
    let mut policy = PolicyOverrides::read(&maps, fields.findings());
    if let Some(strategy) = fields.object("rolloutStrategy") {
        policy.read_rollout(&strategy);
        if whole && policy.over(None).rollout.is_stuck() {
            strategy.problem("maxUnavailable", "must not be 0 when maxSurge is 0");
        }
    }
    let template = fields.object("template").map(pod::pod);
    let worker = fields.object("worker").map(pod::pod);
    let flags = template.as_ref().map(|pod| pod.parallel).unwrap_or_default();
    let parallelism = parallelism(fields, flags, whole);
    if whole {
        check_members(fields, &parallelism, template.as_ref(), worker.as_ref());
    }
    WorkloadSpec {
        replicas: replicas.unwrap_or(1),
        scaling: fields.object("scaling").map(|one| scaling::scaling(&one, whole)),
        parallelism,
        template,
        worker,
        policy,
        kv_offload: fields
            .object("kvCacheOffloading")
            .and_then(|one| offload::offload(&one, whole)),
        labels: fields.texts("labels"),
        annotations,
    }
}

/// `parallelism`, and where it says nothing, what the engine's flags say.
fn parallelism(workload: &Fields<'_>, flags: ParallelFlags, whole: bool) -> Parallelism {
    let (tensor, pipeline, data, local, expert) = match workload.object("parallelism") {
        None => (None, None, None, None, None),
        Some(fields) => {
            fields.without_effect(&["dataRPCPort"], ": ports are found, not told");
            let count = |key| fields.count(key, 1);
            let (pipeline, data, local) = (count("pipeline"), count("data"), count("dataLocal"));
            (count("tensor"), pipeline, data, local, fields.flag("expert"))
        }
    };
    let here = |key: &str| format!("{}.{key}", workload.path("parallelism"));
    let findings = workload.findings();
    let same = |key: &str, said: Option<u32>, flag: Option<u32>| {
        if let (Some(said), Some(flag)) = (said, flag)
            && said != flag
        {
            findings.problem(here(key), format!("is {said}, but the args say {flag}"));
        }
        said.or(flag)
    };
    let tensor = same("tensor", tensor, flags.tensor);
    let pipeline = same("pipeline", pipeline, flags.pipeline);
    let data = same("data", data, flags.data);
    let local = same("dataLocal", local, flags.data_local);
    if pipeline.is_some() && (data.is_some() || local.is_some()) {
        findings.problem(here("pipeline"), "must not be given together with data");
    }
    match (data, local) {
        (Some(data), Some(local)) if data % local != 0 => {
            let message = format!("must divide data, got {local} and data {data}");
            findings.problem(here("dataLocal"), message);
        }
        (None, Some(_)) if whole => {
            findings.problem(here("dataLocal"), "must not be given without data");
        }
        (Some(_), None) if whole => {
            findings.problem(here("dataLocal"), "is required together with data");
        }
        _ => {}
    }
    Parallelism {
        tensor: tensor.unwrap_or(1),
        pipeline: pipeline.unwrap_or(1),
        data: data.unwrap_or(1),
        data_local: local,
        expert: expert.or(flags.expert).unwrap_or(false),
    }
}

/// Whether pods and parallelism fit each other.
fn check_members(
    fields: &Fields<'_>,
    parallelism: &Parallelism,
    template: Option<&PodSpec>,
    worker: Option<&PodSpec>,
) {
    let Parallelism { tensor, pipeline, data, data_local, .. } = *parallelism;
    let local = data_local.unwrap_or(data);
    // A worker next to `pipeline: 1` is as KServe's samples have it: said, and of no consequence.
    let said = |key| fields.value("parallelism").is_some_and(|all| all.get(key).is_some());
    let divided = ["pipeline", "data", "dataLocal"].into_iter().any(said);
    if worker.is_some() && !divided && pipeline == 1 && data == 1 {
        let message = "needs parallelism.pipeline or parallelism.data, which say of what size";
        fields.problem("worker", message);
    }
    if worker.is_none() && local < data {
        let message = format!("is required when data ({data}) is more than dataLocal ({local})");
        fields.problem("worker", message);
    }
    for (key, pod) in [("template", template), ("worker", worker)] {
        let Some(devices) = pod.and_then(|pod| pod.devices.as_ref()) else {
            continue;
        };
        let each = u64::from(tensor) * u64::from(local);
        // Without workers one pod may stand for the whole pipeline, as KServe has it.
        let all = each * u64::from(pipeline);
        let fits = u64::from(devices.count) == each
            || (worker.is_none() && u64::from(devices.count) == all)
            || devices.count == 0;
        if !fits {
            let path = format!("{}.resources.limits.{}", fields.path(key), devices.resource);
            let why = format!("parallelism has {each} in each member (tensor {tensor})");
            let count = devices.count;
            fields.findings().problem(path, format!("is {count}, but {why}"));
        }
    }
}
