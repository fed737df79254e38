//! A pod from its document.

use std::time::Duration;

use serde_json::Value;

use super::{Devices, Effect, NodeRequirement, NodeTerm, Operator, PodSpec, Toleration};
use crate::spec::{args, pod::TopologySpread, quantity::quantity, reader::Fields};

/// A template of pods: `{metadata, spec}`, as `LeaderWorkerSet` has it.
pub(in crate::spec) fn pod_template(template: &Fields<'_>) -> Option<PodSpec> {
    if let Some(metadata) = template.object("metadata") {
        metadata.opaque();
    }
    if template.value("spec").is_none() {
        template.problem("spec", "is required");
    }
    template.object("spec").map(pod)
}

/// A pod.
pub(in crate::spec) fn pod(fields: Fields<'_>) -> PodSpec {
    let mut pod = PodSpec { document: fields.document(), ..PodSpec::default() };
    let mut containers = fields.objects("containers");
    let named = containers.iter().position(|container| container.text("name") == Some("main"));
    if !containers.is_empty() {
        read_engine(&mut pod, containers.remove(named.unwrap_or(0)));
    }
    for beside in containers.into_iter().chain(fields.objects("initContainers")) {
        beside.warn_whole("has no effect: only the engine's container is run");
        beside.opaque();
    }
    pod.node_name = fields.text("nodeName").map(str::to_owned);
    pod.node_selector = fields.texts("nodeSelector");
    if let Some(affinity) = fields.object("affinity") {
        pod.node_terms = node_terms(&affinity);
    }
    let tolerations = fields.objects("tolerations");
    pod.tolerations = tolerations.iter().filter_map(toleration).collect();
    let spread = fields.objects("topologySpreadConstraints");
    pod.topology_spread = spread.iter().filter_map(topology_spread).collect();
    let grace = fields.number("terminationGracePeriodSeconds", 0);
    pod.grace = grace.map(Duration::from_secs);
    fields.without_effect_together(&KUBERNETES_ONLY, " outside Kubernetes");
    pod
}

/// Fields of a pod that only say something about Kubernetes.
const KUBERNETES_ONLY: [&str; 23] = [
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "shareProcessNamespace",
    "volumes",
];

/// Fields of a container that only say something about Kubernetes.
const CONTAINERS_ONLY: [&str; 17] = [
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "stdin",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

fn read_engine(pod: &mut PodSpec, container: Fields<'_>) {
    let _ = container.text("name");
    for (path, value) in container.list("env") {
        if let Some(variable) = container.at(path, value)
            && let Some(name) = variable.required_text("name")
        {
            if let Some(value) = variable.scalar("value") {
                pod.env.insert(name.to_owned(), value);
            }
            variable.without_effect(&["valueFrom"], " outside Kubernetes");
        }
    }
    pod.args = command_args(&container);
    let additional = pod.env.get("VLLM_ADDITIONAL_ARGS");
    pod.args
        .extend(additional.into_iter().flat_map(|args| args.split_whitespace()).map(Into::into));
    pod.args.extend(container.text_list("args"));
    (pod.flags, pod.parallel) =
        args::read(&pod.args, &container.path("args"), container.findings());
    if let Some(resources) = container.object("resources") {
        read_resources(pod, &resources);
    }
    container.without_effect_together(&CONTAINERS_ONLY, " outside Kubernetes");
}

/// What `command` says of the engine: flags behind `vllm serve MODEL`.
fn command_args(container: &Fields<'_>) -> Vec<String> {
    let command = container.text_list("command");
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Vec::new(),
        [program, "serve", rest @ ..] if program.ends_with("vllm") => {
            let flags = rest.iter().skip_while(|word| !word.starts_with('-'));
            flags.map(|flag| (*flag).to_owned()).collect()
        }
        _ => {
            let message = "has no effect: the engine is Troupe's own; its flags belong into args";
            container.warn("command", message);
            Vec::new()
        }
    }
}

/// Resources that are devices.
const DEVICES: [&str; 4] =
    ["nvidia.com/gpu", "amd.com/gpu", "habana.ai/gaudi", "troupe.dev/device"];

fn read_resources(pod: &mut PodSpec, resources: &Fields<'_>) {
    pod.limits = resources.texts("limits");
    let requests = resources.texts("requests");
    for (key, texts) in [("limits", &pod.limits), ("requests", &requests)] {
        for (name, text) in texts {
            if quantity(text).is_none() && !resources.findings().is_template(text) {
                let path = format!("{}.{name}", resources.path(key));
                let message = format!("must be an amount as 4, 500m or 8Gi, got {text}");
                resources.findings().problem(path, message);
            }
        }
    }
    // Kubernetes takes a limit for the request too, and devices have no request without a limit.
    let limit = |name: &str| pod.limits.get(name).or(requests.get(name));
    pod.devices = DEVICES.iter().find_map(|name| {
        let count = quantity(limit(name)?).and_then(|count| u32::try_from(count).ok())?;
        Some(Devices { resource: (*name).to_owned(), count })
    });
    pod.memory = limit("memory").and_then(|text| quantity(text));
    resources.without_effect(&["claims"], " outside Kubernetes");
}

fn node_terms(affinity: &Fields<'_>) -> Vec<NodeTerm> {
    affinity
        .without_effect(&["podAffinity", "podAntiAffinity"], ": members are spread by topology");
    let Some(nodes) = affinity.object("nodeAffinity") else {
        return Vec::new();
    };
    let wish = "preferredDuringSchedulingIgnoredDuringExecution";
    nodes.without_effect(&[wish], ": only what is required is");
    let Some(required) = nodes.object("requiredDuringSchedulingIgnoredDuringExecution") else {
        return Vec::new();
    };
    let terms = required.objects("nodeSelectorTerms");
    if terms.is_empty() {
        required.problem("nodeSelectorTerms", "must have at least one term");
    }
    terms.iter().map(node_term).collect()
}

fn node_term(term: &Fields<'_>) -> NodeTerm {
    term.without_effect(&["matchFields"], ": nodeName names a node");
    NodeTerm(term.objects("matchExpressions").iter().filter_map(requirement).collect())
}

fn requirement(fields: &Fields<'_>) -> Option<NodeRequirement> {
    #[derive(Clone, Copy)]
    enum Word {
        In,
        NotIn,
        Exists,
        DoesNotExist,
    }
    let words = [
        ("In", Word::In),
        ("NotIn", Word::NotIn),
        ("Exists", Word::Exists),
        ("DoesNotExist", Word::DoesNotExist),
    ];
    let key = fields.required_text("key");
    if fields.value("operator").is_none() {
        fields.problem("operator", "is required");
    }
    let word = fields.one_of("operator", &words);
    let values = fields.text_list("values");
    let (word, key) = (word?, key?.to_owned());
    match word {
        Word::In | Word::NotIn if values.is_empty() => {
            fields.problem("values", "must not be empty with In and NotIn");
        }
        Word::Exists | Word::DoesNotExist if !values.is_empty() => {
            fields.problem("values", "must be empty with Exists and DoesNotExist");
        }
        _ => {}
    }
    let operator = match word {
        Word::In => Operator::In(values),
        Word::NotIn => Operator::NotIn(values),
        Word::Exists => Operator::Exists,
        Word::DoesNotExist => Operator::DoesNotExist,
    };
    Some(NodeRequirement { key, operator })
}

fn toleration(fields: &Fields<'_>) -> Option<Toleration> {
    let effects = [
        ("NoSchedule", Effect::NoSchedule),
        ("PreferNoSchedule", Effect::PreferNoSchedule),
        ("NoExecute", Effect::NoExecute),
    ];
    let key = fields.text("key").filter(|key| !key.is_empty()).map(str::to_owned);
    let exists = fields.one_of("operator", &[("Equal", false), ("Exists", true)]).unwrap_or(false);
    let value = fields.scalar("value");
    let effect = match fields.value("effect") {
        Some(Value::String(text)) if text.is_empty() => None,
        _ => fields.one_of("effect", &effects),
    };
    fields.without_effect(&["tolerationSeconds"], ": a node is left at once");
    if exists && value.as_ref().is_some_and(|value| !value.is_empty()) {
        fields.problem("value", "must be empty when operator is Exists");
        return None;
    }
    if !exists && key.is_none() {
        fields.problem("operator", "must be Exists when key is empty");
        return None;
    }
    let value = if exists { None } else { Some(value.unwrap_or_default()) };
    Some(Toleration { key, value, effect })
}

fn topology_spread(fields: &Fields<'_>) -> Option<TopologySpread> {
    let key = fields.required_text("topologyKey")?.to_owned();
    let max_skew = fields.count("maxSkew", 1).unwrap_or(1);
    let words = [("DoNotSchedule", true), ("ScheduleAnyway", false)];
    let required = fields.one_of("whenUnsatisfiable", &words).unwrap_or(true);
    // Whatever they select, the members of the group are meant.
    let _ = (fields.value("labelSelector"), fields.value("matchLabelKeys"));
    let more = ["minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy"];
    fields.without_effect(&more, " outside Kubernetes");
    Some(TopologySpread { key, max_skew, required })
}
