//! What is stored under the keys: JSON records with an `apiVersion`, one type per kind of key.
//!
//! A record that cannot be read (another version, a hand's edit) is an error that names the key;
//! the reader logs it and goes on without it, so one bad record never stops a cluster.
//!
//! - `node`: what a host is, what runs there, and whether it may be planned on
//! - `group`: what the controller wants of one group
//! - `endpoint`: what placement picks from, and who picks
//! - `service`: what the controller says of a service, its revisions, the demand for it
//! - `access`: who may come in, who may no longer, and where one knocks
//! - `event`: what happened, for people

mod access;
mod endpoint;
mod event;
mod group;
mod node;
mod service;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use access::{ControlRecord, RevokedRecord, TokenKind, TokenRecord, TokenUse};
pub use endpoint::{EndpointRecord, GatewayRecord};
pub use event::{EventKind, EventRecord, ObjectRef};
pub use group::{
    AfterDrain, Drain, GroupMember, GroupRecord, Launch, MemberPer, RestartPolicy, StartupPolicy,
};
pub use node::{
    CordonRecord, Death, DeathsRecord, MemberState, MemberStatus, NodeLabelsRecord, NodeRecord,
    NodeStatus,
};
pub use service::{
    Condition, ConditionStatus, DemandRecord, GroupPhase, GroupStatus, MemberPlace, RevisionRecord,
    ServiceStatus,
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
