//! Groups: what the controller wants of each, how far it is, and where its members are. A group
//! that has no place yet is one too, though no host has heard of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::directory::{
        GroupRecord, GroupStatus, MemberState, MemberStatus, NodeRecord, NodeStatus, ServiceStatus,
    },
    id::{GroupId, NodeId},
};

use super::{
    super::{
        contents::{Contents, Found},
        resource::Resource,
    },
    own,
};

/// All groups.
pub(super) fn objects(contents: &Contents) -> Vec<Value> {
    let keys = &contents.keys;
    let told = told(contents);
    let records = contents.records::<GroupRecord>(&keys.groups()).into_iter();
    let mut planned: BTreeMap<GroupId, Found<GroupRecord>> =
        records.map(|found| (found.record.group.clone(), found)).collect();
    let around = Around::new(contents);
    let mut names: Vec<GroupId> = told.keys().chain(planned.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let documents = names.into_iter().map(|id| {
        let record = planned.remove(&id);
        around.document(&id, record.as_ref(), told.get(&id))
    });
    documents.collect()
}

/// What the controller says of each group.
fn told(contents: &Contents) -> BTreeMap<GroupId, GroupStatus> {
    let prefix = contents.keys.service_statuses();
    let statuses = contents.records::<ServiceStatus>(&prefix).into_iter();
    statuses
        .filter_map(|found| {
            let (namespace, service) = found.key.strip_prefix(&prefix)?.split_once('/')?;
            let name = (namespace.to_owned(), service.to_owned());
            Some((name, found.record.groups))
        })
        .flat_map(|((namespace, service), groups)| {
            groups.into_iter().map(move |group| {
                let (namespace, service) = (namespace.clone(), service.clone());
                (GroupId { namespace, service, index: group.index }, group)
            })
        })
        .collect()
}

/// What groups are shown with: the hosts that they are on.
struct Around {
    names: BTreeMap<NodeId, String>,
    members: BTreeMap<(GroupId, u32), (NodeId, MemberStatus)>,
}

impl Around {
    fn new(contents: &Contents) -> Self {
        let keys = &contents.keys;
        let nodes = contents.records::<NodeRecord>(&keys.nodes()).into_iter();
        let names = nodes.map(|found| (found.record.id, found.record.name)).collect();
        let mut members = BTreeMap::new();
        for found in contents.records::<NodeStatus>(&keys.node_statuses()) {
            for member in found.record.members {
                let key = (member.group.clone(), member.member);
                let newer = members
                    .get(&key)
                    .is_none_or(|(_, known): &(_, MemberStatus)| known.epoch < member.epoch);
                if newer {
                    members.insert(key, (found.record.node, member));
                }
            }
        }
        Self { names, members }
    }

    fn document(
        &self,
        id: &GroupId,
        record: Option<&Found<GroupRecord>>,
        told: Option<&GroupStatus>,
    ) -> Value {
        let GroupId { namespace, service, index } = id;
        let mut metadata = json!({
            "name": format!("{service}-{index}"),
            "namespace": namespace,
            "labels": {
                "troupe.dev/service": service,
                "leaderworkerset.sigs.k8s.io/group-index": index.to_string(),
            },
        });
        let mut spec = json!({"service": service, "index": index});
        let mut status = json!({"ready": 0, "size": 0});
        if let Some(Found { record, version, .. }) = record {
            metadata["resourceVersion"] = json!(version.to_string());
            if record.planned > 0 {
                metadata["creationTimestamp"] = json!(rfc3339(record.planned));
            }
            spec = self.planned(record);
            let mut members: Vec<Value> = self.states(record).collect();
            serve_together(&mut members);
            let ready = members.iter().filter(|member| member["state"] == "Ready").count();
            status = json!({"ready": ready, "size": members.len(), "members": members});
        }
        if let Some(told) = told {
            status["phase"] = json!(told.phase);
            status["restarts"] = json!(told.restarts);
            if !told.message.is_empty() {
                status["message"] = json!(told.message);
            }
        }
        own(Resource::Group, metadata, spec, status)
    }

    fn planned(&self, record: &GroupRecord) -> Value {
        let GroupRecord { group, launch, .. } = record;
        let mut spec = json!({
            "service": group.service,
            "index": group.index,
            "epoch": record.epoch.to_string(),
            "revision": record.revision,
            "startupPolicy": record.startup,
            "restartPolicy": record.restart,
            "model": {"uri": launch.model_uri, "name": launch.model_name},
            "parallelism": {"tensor": launch.tensor_parallel, "pipeline": launch.pipeline_parallel},
        });
        if launch.expert_parallel {
            spec["parallelism"]["expert"] = json!(true);
        }
        if let Some(drain) = record.drain {
            spec["drainSeconds"] = json!(drain.seconds);
        }
        spec
    }

    /// Each member of the group's present incarnation.
    fn states<'a>(&'a self, record: &'a GroupRecord) -> impl Iterator<Item = Value> + 'a {
        record.members.iter().enumerate().map(|(index, place)| {
            let key = (record.group.clone(), index as u32);
            let reported = self.members.get(&key);
            let status = reported
                .filter(|(node, status)| *node == place.node && status.epoch == record.epoch)
                .map(|(_, status)| status);
            let ranks: Vec<String> = place.ranks.iter().map(ToString::to_string).collect();
            let mut member = json!({
                "name": format!("{}-{}-{index}", record.group.service, record.group.index),
                "node": self.names.get(&place.node).map_or("(gone)", String::as_str),
                "nodeId": place.node,
                "ranks": ranks,
                "state": status.map_or("Pending", |status| word(&status.state)),
            });
            if let Some(address) = status.and_then(|status| status.address.as_ref()) {
                member["address"] = json!(address);
            }
            if let Some(MemberState::Exited(cause)) = status.map(|status| &status.state) {
                member["cause"] = json!(cause);
            }
            member
        })
    }
}

/// Only the leader of a group says that it is ready, and it says so for all: the others listen, and
/// from then on they serve.
fn serve_together(members: &mut [Value]) {
    if members.first().is_some_and(|leader| leader["state"] == "Ready") {
        for member in members.iter_mut().filter(|member| member["state"] == "Listening") {
            member["state"] = json!("Ready");
        }
    }
}

/// How far a member is, in a word.
pub(super) fn word(state: &MemberState) -> &'static str {
    match state {
        MemberState::Starting => "Starting",
        MemberState::Listening => "Listening",
        MemberState::Ready => "Ready",
        MemberState::Exited(_) => "Exited",
    }
}
