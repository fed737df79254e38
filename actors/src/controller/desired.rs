//! From a declared service to what its groups are to run.

use troupe_runtime::{discovery::directory::Launch, id::GroupId};

/// A declared service, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
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
