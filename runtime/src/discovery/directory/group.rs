//! Groups: what the controller wants of each, for the nodes to make real.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Coordinate, Epoch, GroupId, NodeId},
    spec::EngineFlags,
    wire::status::Role,
};

/// What the controller wants of one group: one incarnation of it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    /// Its name.
    pub group: GroupId,
    /// The incarnation; members of lower ones stop.
    pub epoch: Epoch,
    /// When this incarnation was planned, in seconds since 1970; 0 if nobody said.
    #[serde(default)]
    pub planned: u64,
    /// Of the controller that planned it: each that takes office has a higher one than all before.
    #[serde(default)]
    pub term: u64,
    /// The service's revision.
    pub revision: u64,
    /// What it serves, and how.
    pub launch: Launch,
    /// Its members, the leader first.
    pub members: Vec<GroupMember>,
    /// When its members are started.
    #[serde(default)]
    pub startup: StartupPolicy,
    /// What a member's end means for the group.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// It takes no new request, finishes what it has begun, and ends.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// What placement may select its endpoint by: labels of its service, and of its leader's host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How a group ends without losing a request.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// The most seconds for what it has begun.
    pub seconds: u32,
    /// What comes after it.
    #[serde(default)]
    pub then: AfterDrain,
}

/// What comes after a group has drained.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterDrain {
    /// Nothing: it is no longer wanted.
    #[default]
    Leave,
    /// It is formed anew, as the newest revision.
    Update,
    /// It is formed anew as it was, on other hosts.
    Move,
}

/// When a group's members are started (LeaderWorkerSet's `startupPolicy`).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartupPolicy {
    /// All at once.
    #[default]
    LeaderCreated,
    /// The others once the leader listens.
    LeaderReady,
}

/// What a member's end means for its group (LeaderWorkerSet's `restartPolicy`).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// The whole group is formed anew.
    #[default]
    RecreateGroupOnPodRestart,
    /// So it is, but not while a member has yet to start.
    RecreateGroupAfterStart,
    /// Only a person's doing forms it anew.
    None,
}

/// One member's place.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupMember {
    /// On which host.
    pub node: NodeId,
    /// The host's process that is to run it: a restarted one waits for the next incarnation.
    pub process: uuid::Uuid,
    /// Which ranks it hosts, one device each.
    pub ranks: Vec<Coordinate>,
}

/// How a group's ranks are divided into members.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum MemberPer {
    /// One member per host, with as many ranks as the host has devices for.
    #[default]
    Host,
    /// One member per stage.
    Stage,
    /// One member per rank.
    Rank,
}

/// What a group serves and how: the same for all of its members.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// The model's URI.
    pub model_uri: String,
    /// The name that requests use.
    pub model_name: String,
    /// Ranks per stage.
    pub tensor_parallel: u32,
    /// Stages.
    pub pipeline_parallel: u32,
    /// Whether the ranks of a stage divide its experts and not each expert's width.
    #[serde(default)]
    pub expert_parallel: bool,
    /// How ranks are divided into members.
    #[serde(default)]
    pub member_per: MemberPer,
    /// What its endpoint may be asked to do.
    #[serde(default)]
    pub role: Role,
    /// The engine's settings.
    pub flags: EngineFlags,
}
