//! From a document's fields to a typed service, noting all that is wrong on the way.

use serde_json::Value;

use super::{
    AdapterSpec, ApiVersion, Criticality, KIND, LoraSpec, Metadata, ModelSpec, Parallelism,
    PodSpec, ServiceSpec, WorkloadSpec,
};
use crate::spec::{
    args,
    reader::{Fields, Findings, scalar},
};

/// `None` only together with a problem.
pub(super) fn service(document: Value, findings: &Findings) -> Option<ServiceSpec> {
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
