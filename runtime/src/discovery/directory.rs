//! What is stored under the keys: JSON records with an `apiVersion`, one type per kind of key.
//!
//! A record that cannot be read (another version, a hand's edit) is an error that names the key;
//! the reader logs it and goes on without it, so one bad record never stops a cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    id::{Coordinate, Epoch, GroupId, NodeId},
    spec::EngineFlags,
    wire::status::EndpointInfo,
};

/// Version of all stored records.
pub const API_VERSION: &str = "troupe/v1";

/// A stored value.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Stored<T> {
    api_version: String,
    #[serde(flatten)]
    record: T,
}

/// A value that is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of this shape.
    #[error("the record at {key} cannot be read")]
    Unreadable {
        /// Where.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("the record at {key} has apiVersion {found}, this version reads {API_VERSION}")]
    Version {
        /// Where.
        key: String,
        /// What it says.
        found: String,
    },
}

/// A record as bytes.
pub fn to_bytes<T: Serialize>(record: T) -> Vec<u8> {
    let stored = Stored { api_version: API_VERSION.into(), record };
    // Records are plain structs with string keys, for which serialisation cannot fail.
    serde_json::to_vec(&stored).unwrap_or_default()
}

/// A record from bytes.
///
/// # Errors
/// [`RecordError`] that names the key.
pub fn from_bytes<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let stored: Stored<T> = serde_json::from_slice(bytes)
        .map_err(|source| RecordError::Unreadable { key: key.into(), source })?;
    if stored.api_version != API_VERSION {
        return Err(RecordError::Version { key: key.into(), found: stored.api_version });
    }
    Ok(stored.record)
}

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
}

/// What the controller wants of one group: one incarnation of it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    /// Its name.
    pub group: GroupId,
    /// The incarnation; members of lower ones stop.
    pub epoch: Epoch,
    /// The service's revision.
    pub revision: u64,
    /// What it serves, and how.
    pub launch: Launch,
    /// Its members, the leader first.
    pub members: Vec<GroupMember>,
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
    /// How ranks are divided into members.
    #[serde(default)]
    pub member_per: MemberPer,
    /// The engine's settings.
    pub flags: EngineFlags,
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

/// What placement picks from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRecord {
    /// What it is.
    pub info: EndpointInfo,
    /// Where its leader is reached.
    pub address: String,
    /// The model's URI, from which a gateway loads tokenizer and template.
    pub model_uri: String,
}

/// A gateway.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRecord {
    /// Its identity.
    pub id: NodeId,
    /// `host:port` of its HTTP API, as other hosts reach it.
    pub address: String,
    /// Version of the binary.
    pub version: String,
}

/// What the controller says of a service.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Groups that serve.
    pub ready: u32,
    /// Groups that are wanted.
    pub replicas: u32,
    /// Why it is not as wanted, for people; empty if it is.
    pub message: String,
}
