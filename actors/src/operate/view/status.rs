//! What the controller says of a service, in the words of KServe's and LeaderWorkerSet's status.

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::directory::{Condition, GroupStatus, ServiceStatus},
};

/// `status` of an `LLMInferenceService`.
pub(super) fn of_service(status: &ServiceStatus) -> Value {
    let addresses = status.addresses.iter().map(|url| json!({"url": url}));
    let mut shown = json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "readyReplicas": status.ready,
        "updatedReplicas": status.updated,
        "revision": status.revision,
        "conditions": status.conditions.iter().map(condition).collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group).collect::<Vec<_>>(),
    });
    if let Some(url) = &status.url {
        shown["url"] = json!(url);
    }
    if !status.applied_config_refs.is_empty() {
        shown["appliedConfigRefs"] = json!(status.applied_config_refs);
    }
    if !status.message.is_empty() {
        shown["message"] = json!(status.message);
    }
    shown
}

/// `status` of the `LeaderWorkerSet` of the service's name.
pub(super) fn of_set(status: &ServiceStatus) -> Value {
    json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "readyReplicas": status.ready,
        "updatedReplicas": status.updated,
        "conditions": status.conditions.iter().map(condition).collect::<Vec<_>>(),
    })
}

fn condition(condition: &Condition) -> Value {
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": rfc3339(condition.last_transition),
    })
}

fn group(group: &GroupStatus) -> Value {
    let members = group.members.iter().map(|member| {
        let ranks: Vec<String> = member.ranks.iter().map(ToString::to_string).collect();
        json!({"node": member.node_name, "ranks": ranks, "state": member.state})
    });
    let mut shown = json!({
        "index": group.index,
        "phase": group.phase,
        "revision": group.revision,
        "restarts": group.restarts,
        "members": members.collect::<Vec<_>>(),
    });
    if let Some(epoch) = group.epoch {
        shown["epoch"] = json!(epoch.to_string());
    }
    if !group.message.is_empty() {
        shown["message"] = json!(group.message);
    }
    shown
}
