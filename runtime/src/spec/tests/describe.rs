//! What was understood of an object, in a few lines.

use std::fmt::Write as _;

use crate::spec::{
    GroupPolicy, Kind, LeaderWorkerSet, PodSpec, ServiceSpec,
    objects::Object,
    service::{Parallelism, PoolSource, WorkloadSpec},
};

/// A line with kind and name, and below it what there is to say.
pub(super) fn describe(object: &Object) -> String {
    let metadata = object.metadata();
    let kind: Kind = object.kind();
    let mut text = format!("{kind} {}/{}", metadata.namespace, metadata.name);
    let details = match object {
        Object::Service(service) => of_service(service),
        Object::Config(config) => format!("\nstarts from {:?}", config.base_refs),
        Object::LeaderWorkerSet(set) => of_set(set),
        Object::Pool(pool) => format!("\n{:?}", pool.spec),
        Object::Model(model) => {
            let (name, criticality) = (&model.model_name, model.criticality);
            let targets: Vec<String> =
                model.targets.iter().map(|one| format!("{} x{}", one.name, one.weight)).collect();
            format!("\n{name} in {}, {criticality:?}, targets {targets:?}", model.pool.name)
        }
        Object::Objective(one) => format!("\npriority {} in {}", one.priority, one.pool.name),
        Object::Route(route) => {
            let mut text = format!("\nhostnames {:?}", route.spec.hostnames);
            for rule in &route.spec.rules {
                let _ = write!(text, "\nmatches {:?}", rule.matches);
                let _ = write!(text, "\nrewrite {:?}, timeout {:?}", rule.rewrite, rule.timeout);
                for backend in &rule.backends {
                    let (kind, name, weight) = (backend.kind, &backend.name, backend.weight);
                    let _ = write!(text, "\nto {kind:?} {name} x{weight}");
                }
            }
            text
        }
    };
    text.push_str(&details.replace('\n', "\n  "));
    text
}

fn of_service(service: &ServiceSpec) -> String {
    let model = &service.model;
    let mut text = format!("\nmodel {} as {}", model.uri, service.model_name());
    let _ =
        write!(text, ", criticality {:?}, starts from {:?}", model.criticality, service.base_refs);
    if let Some(lora) = &model.lora {
        let _ = write!(text, "\n{lora:?}");
    }
    text.push_str(&of_workload(&service.workload));
    if let Some(prefill) = &service.prefill {
        text.push_str("\nprefill");
        text.push_str(&of_workload(prefill).replace('\n', "\n  "));
    }
    if let Some(router) = &service.router {
        let _ = write!(text, "\nroute {:?}", router.route);
        if let Some(scheduler) = &router.scheduler {
            let pool = match &scheduler.pool {
                Some(PoolSource::Ref(name)) => format!("the one named {name}"),
                Some(PoolSource::Spec(spec)) => format!("{spec:?}"),
                None => "its own".to_owned(),
            };
            let _ = write!(text, "\npool {pool}, configured {}", scheduler.config.is_some());
        }
    }
    if let Some(tracing) = &service.tracing {
        let _ = write!(text, "\n{tracing:?}");
    }
    text
}

fn of_workload(workload: &WorkloadSpec) -> String {
    let Parallelism { tensor, pipeline, data, data_local, expert } = workload.parallelism;
    let mut text = match &workload.scaling {
        None => format!("\n{} groups", workload.replicas),
        Some(scaling) => {
            let (least, most) = (scaling.min_replicas, scaling.max_replicas);
            let mut text = format!("\n{least} to {most} groups, idle {:?}", scaling.idle_replicas);
            let _ = write!(text, " after {:?}, cost {:?}", scaling.cooldown, scaling.cost);
            let _ = write!(text, "\nhold {:?}", scaling.targets);
            let _ = write!(text, "\nup {:?}\ndown {:?}", scaling.scale_up, scaling.scale_down);
            text
        }
    };
    let _ = write!(text, "\ntensor {tensor}, pipeline {pipeline}, data {data}");
    let _ = write!(text, ", local {data_local:?}, expert {expert}");
    for (name, pod) in [("leader", &workload.template), ("worker", &workload.worker)] {
        if let Some(pod) = pod {
            let _ = write!(text, "\n{name}: {}", of_pod(pod));
        }
    }
    if let Some(offload) = &workload.kv_offload {
        let _ = write!(text, "\n{offload:?}");
    }
    let policy = workload.group_policy(None);
    if policy != GroupPolicy::default() {
        let _ = write!(text, "\n{}", of_policy(&policy));
    }
    text
}

fn of_pod(pod: &PodSpec) -> String {
    let mut text = format!("flags {:?}, devices {:?}", pod.flags.to_args(), pod.devices);
    let _ = write!(text, ", memory {:?}, grace {:?}", pod.memory, pod.grace);
    if !pod.env.is_empty() {
        let _ = write!(text, ", env {:?}", pod.env);
    }
    if !pod.node_selector.is_empty() || !pod.node_terms.is_empty() || pod.node_name.is_some() {
        let terms: Vec<String> = pod.node_terms.iter().map(ToString::to_string).collect();
        let (name, selector) = (&pod.node_name, &pod.node_selector);
        let _ = write!(text, "\n  on {name:?} {selector:?} {terms:?}");
    }
    if !pod.tolerations.is_empty() {
        let _ = write!(text, "\n  bears {:?}", pod.tolerations);
    }
    if !pod.topology_spread.is_empty() {
        let _ = write!(text, "\n  spread {:?}", pod.topology_spread);
    }
    text
}

fn of_set(set: &LeaderWorkerSet) -> String {
    let (replicas, size, subgroup) = (set.replicas, set.size, set.subgroup);
    let mut text = format!("\n{replicas} groups of {size}, subgroup {subgroup:?}");
    let _ = write!(text, ", subdomain {:?}", set.subdomain);
    let _ = write!(text, "\n{}", of_policy(&set.policy));
    text
}

fn of_policy(policy: &GroupPolicy) -> String {
    let rollout = policy.rollout;
    let (away, more) = (rollout.max_unavailable, rollout.max_surge);
    let mut text = format!("restart {:?}, startup {:?}", policy.restart, policy.startup);
    let _ = write!(text, ", rollout from {} with {away} away and {more} more", rollout.partition);
    let _ = write!(text, ", {:?} restarts", policy.max_restarts);
    let _ = write!(text, " after {:?} to {:?}", policy.backoff, policy.backoff_max);
    if policy.tensor_across_hosts {
        text.push_str(", tensor across hosts");
    }
    for (name, key) in
        [("group", &policy.exclusive_topology), ("subgroup", &policy.subgroup_exclusive_topology)]
    {
        if let Some(key) = key {
            let _ = write!(text, ", one {name} per {key}");
        }
    }
    text
}
