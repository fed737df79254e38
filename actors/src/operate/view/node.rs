//! Hosts: what each offers, what runs there, and whether it may be planned on.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::directory::{
        CordonRecord, MemberState, MemberStatus, NodeLabelsRecord, NodeRecord, NodeStatus,
    },
    id::NodeId,
};
use uuid::Uuid;

use super::{
    super::{
        contents::{Contents, Found},
        resource::Resource,
    },
    group::word,
    own,
};

/// All hosts.
pub(super) fn objects(contents: &Contents) -> Vec<Value> {
    let keys = &contents.keys;
    let by_node = |found: Found<NodeStatus>| (found.record.node, found.record);
    let statuses: BTreeMap<NodeId, NodeStatus> =
        contents.records(&keys.node_statuses()).into_iter().map(by_node).collect();
    let nodes = contents.records::<NodeRecord>(&keys.nodes()).into_iter();
    nodes
        .map(|found| {
            let id = found.record.id;
            let cordon: Option<CordonRecord> = contents.record(&keys.cordon(id));
            let labels: Option<NodeLabelsRecord> = contents.record(&keys.node_labels(id));
            document(&found, labels.as_ref(), cordon.as_ref(), statuses.get(&id))
        })
        .collect()
}

fn document(
    found: &Found<NodeRecord>,
    labels: Option<&NodeLabelsRecord>,
    cordon: Option<&CordonRecord>,
    status: Option<&NodeStatus>,
) -> Value {
    let node = &found.record;
    let mut metadata = json!({
        "name": node.name,
        "uid": node.id,
        "labels": node.labels_with(labels),
        "resourceVersion": found.version.to_string(),
    });
    if let Some(started) = started(node.process) {
        metadata["creationTimestamp"] = json!(rfc3339(started));
    }
    let mut spec = json!({"unschedulable": cordon.is_some()});
    if let Some(cordon) = cordon {
        spec["cordonedAt"] = json!(rfc3339(cordon.since));
        if let Some(seconds) = cordon.drain {
            spec["drainSeconds"] = json!(seconds);
        }
    }
    let members: Vec<Value> = status.map(|status| members(status).collect()).unwrap_or_default();
    let mut shown = json!({
        "version": node.version,
        "wire": node.wire,
        "devices": {"kind": node.device_kind, "count": node.devices, "used": used(status)},
        "members": members,
    });
    if node.leaving {
        spec["leaving"] = json!(true);
    }
    if node.device_memory > 0 {
        shown["devices"]["memory"] = json!(node.device_memory);
    }
    if let Some(address) = &node.address {
        shown["address"] = json!(address);
    }
    own(Resource::Node, metadata, spec, shown)
}

/// Devices that living members have.
fn used(status: Option<&NodeStatus>) -> usize {
    let Some(status) = status else { return 0 };
    let alive = |state: &MemberState| !matches!(state, MemberState::Exited(_));
    let alive = status.members.iter().filter(|member| alive(&member.state));
    let ranks = alive.map(|member| {
        let plan = status
            .groups
            .iter()
            .find(|group| group.group == member.group && group.epoch == member.epoch);
        let place = plan.and_then(|group| group.members.get(member.member as usize));
        // A node that does not report its plans has a device for a member at the least.
        place.map_or(1, |place| place.ranks.len())
    });
    ranks.sum()
}

fn members(status: &NodeStatus) -> impl Iterator<Item = Value> + '_ {
    status.members.iter().map(|member| {
        let MemberStatus { group, member: index, .. } = member;
        let mut shown = json!({
            "name": format!("{}-{}-{index}", group.service, group.index),
            "namespace": group.namespace,
            "epoch": member.epoch.to_string(),
            "state": word(&member.state),
        });
        if let MemberState::Exited(cause) = &member.state {
            shown["cause"] = json!(cause);
        }
        shown
    })
}

/// When the host's process was started: its id has the time in it.
fn started(process: Uuid) -> Option<u64> {
    process.get_timestamp().map(|time| time.to_unix().0)
}
