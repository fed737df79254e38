//! Services: what the controller says of one (as KServe and LeaderWorkerSet say it), the revisions
//! that it had, and the demand for one that has nothing to serve with.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Launch;
use crate::{
    id::{Coordinate, Epoch, NodeId},
    spec::AppliedConfig,
};

/// What the controller says of a service.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Groups that serve.
    pub ready: u32,
    /// Groups that are wanted.
    pub replicas: u32,
    /// Why it is not as wanted, for people; empty if it is.
    pub message: String,
    /// Which generation of the specification all this is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// Groups of the newest revision, ready or not.
    #[serde(default)]
    pub updated: u32,
    /// The newest revision.
    #[serde(default)]
    pub revision: u64,
    /// KServe's conditions, `Ready` first.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where requests go: a gateway's address with the service's path.
    #[serde(default)]
    pub url: Option<String>,
    /// The same, of every gateway.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Each group, by index.
    #[serde(default)]
    pub groups: Vec<GroupStatus>,
    /// The configurations that it is made of, from the weakest to the strongest; none while they
    /// do not make a service.
    #[serde(default)]
    pub applied_config_refs: Vec<AppliedConfig>,
}

/// One thing that holds of a service or not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What: `Ready`, `MainWorkloadReady`, `Available`, `Failed` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether.
    pub status: ConditionStatus,
    /// Why, as one word for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Since when, in seconds since 1970.
    pub last_transition: u64,
}

/// Whether a condition holds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    Unknown,
}

/// One group of a service.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its index.
    pub index: u32,
    /// Its incarnation; none while it cannot be planned.
    pub epoch: Option<Epoch>,
    /// Its revision.
    pub revision: u64,
    /// How far it is.
    pub phase: GroupPhase,
    /// How often it was formed anew since it last served well.
    pub restarts: u32,
    /// Its members, the leader first.
    pub members: Vec<MemberPlace>,
    /// Why it is not ready, for people; empty if it is.
    pub message: String,
}

/// How far a group is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPhase {
    /// No place for it.
    Pending,
    /// Its members start, find each other and load.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has begun.
    Draining,
    /// It waits before it is formed anew.
    BackOff,
    /// It is not formed anew any more.
    Failed,
}

/// Where a member is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberPlace {
    /// On which host.
    pub node: NodeId,
    /// That host's name.
    pub node_name: String,
    /// Which ranks it has.
    pub ranks: Vec<Coordinate>,
    /// How far it is, in a word: `Starting`, `Listening`, `Ready`, `Exited`, `Unknown`.
    pub state: String,
}

/// A revision that a service had: what its groups were to run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    /// Counts from 1.
    pub number: u64,
    /// `metadata` and `spec` as they were declared, to go back to.
    pub document: Value,
    /// What its groups run.
    pub launch: Launch,
    /// Where its groups may be, in the words of the controller that wrote it.
    #[serde(default)]
    pub wishes: Value,
    /// When it was first seen, in seconds since 1970.
    pub created: u64,
    /// Why, as the declaration's `kubernetes.io/change-cause` says.
    pub cause: Option<String>,
}

/// Requests that a gateway holds for a service without an endpoint.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DemandRecord {
    /// How many.
    pub held: u32,
}
