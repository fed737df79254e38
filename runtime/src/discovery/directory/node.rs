//! Hosts: what one is, what runs there, and whether it may be planned on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::GroupRecord;
use crate::{
    id::{Epoch, GroupId, NodeId, RequestId},
    wire::member::Blame,
};

/// A host.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Its identity.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Drawn when the node's process started: the same host with another one was restarted.
    pub process: uuid::Uuid,
    /// How many devices it has.
    pub devices: u32,
    /// Which kind: `cpu` or `cuda`.
    pub device_kind: String,
    /// Version of the binary.
    pub version: String,
    /// The newest version of the wire that it speaks; it speaks the one before too.
    #[serde(default = "first_wire")]
    pub wire: u32,
    /// Its labels; place is among them: `topology.kubernetes.io/zone`, `troupe.dev/rack`,
    /// `kubernetes.io/hostname`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Bytes of memory for weights, KV blocks and workspace on each device; 0 if unknown.
    #[serde(default)]
    pub device_memory: u64,
    /// Where the host's own door is reached (`quic://host:port`): probes, logs, drains. None for a
    /// host inside its controller's process.
    #[serde(default)]
    pub address: Option<String>,
    /// It is being stopped: nothing new is planned on it, and what runs there finishes and ends
    /// (as [`MemberState::DRAINED`] says).
    #[serde(default)]
    pub leaving: bool,
}

fn first_wire() -> u32 {
    1
}

impl NodeRecord {
    /// Its labels, as a person may have changed them.
    pub fn labels_with(&self, changed: Option<&NodeLabelsRecord>) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if let Some(changed) = changed {
            labels.retain(|key, _| !changed.removed.contains(key));
            labels.extend(changed.set.clone());
        }
        labels
    }
}

/// A person's word on a host's labels, over what the host says of itself.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeLabelsRecord {
    /// Which host.
    pub node: NodeId,
    /// It has these.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// It does not have these.
    #[serde(default)]
    pub removed: BTreeSet<String>,
}

/// A host's report of its members.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Which host.
    pub node: NodeId,
    /// Its process, as in its [`NodeRecord`].
    pub process: uuid::Uuid,
    /// Its members.
    pub members: Vec<MemberStatus>,
    /// The highest epoch that this host has ever seen of each group, by the group's full name: a
    /// controller whose store was wiped counts on from here.
    pub epochs: BTreeMap<String, u64>,
    /// The groups that its living members belong to, as they were planned: a controller whose
    /// store was wiped takes them up again, incarnation and all.
    #[serde(default)]
    pub groups: Vec<GroupRecord>,
}

/// One member, as its node sees it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its group.
    pub group: GroupId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its index.
    pub member: u32,
    /// Where it is reached, once it listens.
    pub address: Option<String>,
    /// How far it is.
    pub state: MemberState,
    /// Which member of its group it blames for the group's end; only a leader does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blames: Option<Blame>,
}

/// How the last members of a host ended that nobody had asked to end.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeathsRecord {
    /// The oldest first; only a few are kept.
    pub deaths: Vec<Death>,
}

/// One of them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Death {
    /// Its group.
    pub group: GroupId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its index.
    pub member: u32,
    /// The requests in the step that it executed, if it died by its own fault: a panic, a fatal
    /// signal, an error of its device, or for want of memory.
    pub suspects: Vec<RequestId>,
}

/// How far a member is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "state", content = "cause")]
pub enum MemberState {
    /// Its process was started.
    Starting,
    /// It listens and forms its group.
    Listening,
    /// It serves.
    Ready,
    /// It is gone, and its devices are free again. Says why.
    Exited(String),
}

impl MemberState {
    /// Why a member has exited whose group had nothing left to do and was to take nothing new: no
    /// failure.
    pub const DRAINED: &'static str = "drained";

    /// Whether it has ended so.
    pub fn is_drained(&self) -> bool {
        matches!(self, Self::Exited(why) if why == Self::DRAINED)
    }
}

/// A person's word that nothing new is planned on a host. Without it a host is planned on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CordonRecord {
    /// Which host.
    pub node: NodeId,
    /// What is there is to move away too, each group after what it has begun or this many seconds.
    pub drain: Option<u32>,
    /// When, in seconds since 1970.
    pub since: u64,
}
