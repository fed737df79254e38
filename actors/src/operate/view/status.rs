//! What the controller says of a service, in the words of KServe's and LeaderWorkerSet's status.

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::directory::{Condition, ConditionStatus, GroupStatus, ServiceStatus},
};

/// `status` of an `LLMInferenceService`, with that of its side that prefills, if that is apart. The
/// numbers are those of the side that decodes, as in KServe.
pub(super) fn of_service(status: &ServiceStatus, prefill: Option<&ServiceStatus>) -> Value {
    let conditions = prefill.map_or_else(|| status.conditions.clone(), |p| together(status, p));
    let addresses = status.addresses.iter().map(|url| json!({"url": url}));
    let mut shown = json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "readyReplicas": status.ready,
        "updatedReplicas": status.updated,
        "revision": status.revision,
        "conditions": conditions.iter().map(condition).collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group).collect::<Vec<_>>(),
    });
    if let Some(prefill) = prefill {
        shown["prefill"] = json!({
            "replicas": prefill.replicas,
            "readyReplicas": prefill.ready,
            "updatedReplicas": prefill.updated,
            "groups": prefill.groups.iter().map(group).collect::<Vec<_>>(),
        });
    }
    if let Some(url) = &status.url {
        shown["url"] = json!(url);
    }
    if !status.applied_config_refs.is_empty() {
        shown["appliedConfigRefs"] = json!(status.applied_config_refs);
    }
    let messages = [Some(status), prefill].into_iter().flatten().map(|side| side.message.as_str());
    let messages: Vec<&str> = messages.filter(|message| !message.is_empty()).collect();
    if !messages.is_empty() {
        shown["message"] = json!(messages.join("; "));
    }
    shown
}

/// The conditions of both sides as one service's: what holds of the side that prefills under names
/// of its own, and what asks for all workloads only if it holds of both.
fn together(decode: &ServiceStatus, prefill: &ServiceStatus) -> Vec<Condition> {
    let other = |kind: &str| prefill.conditions.iter().find(|condition| condition.kind == kind);
    let mut conditions = Vec::new();
    for condition in &decode.conditions {
        let worse = ALL_WORKLOADS
            .contains(&condition.kind.as_str())
            .then(|| other(&condition.kind))
            .flatten()
            .filter(|other| {
                condition.status == ConditionStatus::True && other.status != ConditionStatus::True
            });
        conditions.push(worse.unwrap_or(condition).clone());
        let own = PREFILL_NAMES.iter().find(|(kind, _)| *kind == condition.kind);
        if let Some((kind, name)) = own
            && let Some(found) = other(kind)
        {
            conditions.push(Condition { kind: (*name).into(), ..found.clone() });
        }
    }
    conditions
}

/// Conditions that hold only if they hold of both sides.
const ALL_WORKLOADS: [&str; 3] = ["Ready", "WorkloadsReady", "Available"];
/// What KServe calls a condition of the side that prefills.
const PREFILL_NAMES: [(&str, &str); 3] = [
    ("MainWorkloadReady", "PrefillWorkloadReady"),
    ("WorkerWorkloadReady", "PrefillWorkerWorkloadReady"),
    ("ScalingReady", "PrefillScalingReady"),
];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn side(ready: u32, conditions: &[(&str, bool)]) -> ServiceStatus {
        let condition = |&(kind, holds): &(&str, bool)| Condition {
            kind: kind.into(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            reason: format!("{ready}"),
            message: String::new(),
            last_transition: 0,
        };
        let conditions = conditions.iter().map(condition).collect();
        ServiceStatus { ready, replicas: 2, conditions, ..ServiceStatus::default() }
    }

    #[test]
    fn a_service_is_ready_when_both_of_its_sides_are() {
        let kinds = |holds| [("Ready", holds), ("MainWorkloadReady", holds), ("Failed", false)];
        let told = |decode, prefill| {
            let (decode, prefill) = (side(2, &kinds(decode)), side(1, &kinds(prefill)));
            let shown = of_service(&decode, Some(&prefill));
            let conditions = shown["conditions"].as_array().cloned().unwrap_or_default();
            let told = conditions.iter().map(|c| format!("{}={}", c["type"], c["status"]));
            (shown["prefill"]["readyReplicas"].clone(), told.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            told(true, false),
            (
                json!(1),
                [
                    r#""Ready"="False""#,
                    r#""MainWorkloadReady"="True""#,
                    r#""PrefillWorkloadReady"="False""#,
                    r#""Failed"="False""#,
                ]
                .join(" ")
            )
        );
        assert!(told(true, true).1.starts_with(r#""Ready"="True""#));
        assert!(told(false, true).1.starts_with(r#""Ready"="False""#));
    }
}
