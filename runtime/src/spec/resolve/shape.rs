//! What a service is, and so which presets it starts from.

use serde_json::{Value, json};

use crate::spec::metadata::Metadata;

/// The presets of a service that says this, the weakest first.
pub(super) fn presets(spec: &Value) -> Vec<String> {
    let there = |path: &str| spec.pointer(path).is_some_and(|value| !value.is_null());
    let empty = |path: &str| {
        spec.pointer(path).and_then(Value::as_array).is_none_or(|list| list.is_empty())
    };
    let mut names = Vec::new();
    if there("/router/scheduler") && !there("/router/scheduler/pool/ref") {
        names.push("scheduler");
    }
    if there("/router/route") && empty("/router/route/http/refs") {
        names.push("router-route");
    }
    if there("/tracing") {
        names.push("tracing");
    }
    let decode = match there("/prefill") {
        true => {
            names.extend(workload(&spec["prefill"], PREFILL));
            workload(spec, DECODE)
        }
        false => workload(spec, UNIFIED),
    };
    names.extend(decode);
    names.into_iter().map(|name| format!("kserve-config-llm-{name}")).collect()
}

/// Names for one host, for data parallelism and for pipelines over several.
type Names = [&'static str; 3];

const UNIFIED: Names = ["template", "worker-data-parallel", "worker-pipeline-parallel"];
const DECODE: Names =
    ["decode-template", "decode-worker-data-parallel", "decode-worker-pipeline-parallel"];
const PREFILL: Names =
    ["prefill-template", "prefill-worker-data-parallel", "prefill-worker-pipeline-parallel"];

fn workload(spec: &Value, [one, data, pipeline]: Names) -> Option<&'static str> {
    let there = |field: &Value| !field.is_null();
    let parallelism = &spec["parallelism"];
    if !there(&spec["worker"]) {
        Some(one)
    } else if there(&parallelism["data"]) || there(&parallelism["dataLocal"]) {
        Some(data)
    } else if there(&parallelism["pipeline"]) {
        Some(pipeline)
    } else {
        // A worker without either is refused once all is merged.
        None
    }
}

/// Lets the route that the preset makes lead where the service really is: to its own pool if it has
/// a scheduler, to the pool that it names, or without either to the service itself.
pub(super) fn point_route(spec: &mut Value, metadata: &Metadata) {
    let scheduler = spec.pointer("/router/scheduler").filter(|value| !value.is_null());
    let named = scheduler.and_then(|scheduler| scheduler.pointer("/pool/ref/name")).cloned();
    let target = match (scheduler, named) {
        (Some(_), None) => return,
        (Some(_), Some(name)) => json!({ "name": name }),
        (None, _) => json!({
            "group": "serving.kserve.io",
            "kind": "LLMInferenceService",
            "name": metadata.name,
        }),
    };
    let rules = spec.pointer_mut("/router/route/http/spec/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let backends = rule.get_mut("backendRefs").and_then(Value::as_array_mut);
        for backend in backends.into_iter().flatten() {
            let name = backend.get("name").and_then(Value::as_str).map(str::trim);
            if name == Some(OWN_POOL) || name == Some(&own_pool(&metadata.name)) {
                super::merge::merge(backend, &target);
            }
        }
    }
}

/// The name of the pool that a service with a scheduler has, as the preset writes it.
const OWN_POOL: &str = "{{ ChildName .ObjectMeta.Name `-inference-pool` }}";

/// The same, filled in.
pub(super) fn own_pool(service: &str) -> String {
    super::template::child_name(service, "-inference-pool")
}
