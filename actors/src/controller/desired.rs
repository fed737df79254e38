//! From a declared service to what its groups are to run.

use serde::{Deserialize, Serialize};
use troupe_runtime::{
    discovery::directory::{self, Launch},
    error::chain,
    id::GroupId,
};

/// The kind under which services are stored.
pub const KIND: &str = "LLMInferenceService";

/// A declared service, resolved.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Grows with each change.
    pub revision: u64,
    /// How many groups.
    pub replicas: u32,
    /// What each is to run.
    pub launch: Launch,
}

impl Desired {
    /// The name of one of its groups.
    pub fn group(&self, index: u32) -> GroupId {
        GroupId { namespace: self.namespace.clone(), service: self.name.clone(), index }
    }
}

/// Reads what is stored of a service.
///
/// # Errors
/// What is wrong with it, and where it stands.
pub fn from_stored(key: &str, value: &[u8]) -> Result<Desired, String> {
    directory::from_bytes(key, value).map_err(|error| chain(&error))
}
