//! Every key of the store, and who writes it. No other file spells one.
//!
//! | key under `/troupe/<cluster>/` | writer | lives |
//! |---|---|---|
//! | `incarnation` | whoever finds it absent; every write compares it | for good |
//! | `ca` | whoever finds it absent | for good |
//! | `election` | the controller in office | its lease |
//! | `specs/<kind>/<ns>/<name>` | who declares it; a node that knows a higher generation | for good |
//! | `status/services/<ns>/<name>` | the controller in office | for good |
//! | `status/nodes/<id>` | that node: its members' states, the epochs it has seen | the node's lease |
//! | `status/endpoints/<ns>/<service>/<g>/<epoch>` | the leader's node | the node's lease |
//! | `nodes/<id>` | that node | its lease |
//! | `names/<name>` | the node that took the name | its lease |
//! | `groups/<ns>/<service>/<g>` | the controller in office | for good |
//! | `gateways/<id>` | that gateway | its lease |

use crate::id::{Epoch, GroupId, NodeId};

/// Makes the keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Keys of the named cluster.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/troupe/{cluster}/") }
    }

    /// Everything of this cluster.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The UUID that tells one life of the store from another.
    pub fn incarnation(&self) -> String {
        self.under("incarnation")
    }

    /// The digest of the CA that every process of the cluster has to hold.
    pub fn authority(&self) -> String {
        self.under("ca")
    }

    /// Held by the controller in office.
    pub fn election(&self) -> String {
        self.under("election")
    }

    /// All specs.
    pub fn all_specs(&self) -> String {
        self.under("specs/")
    }

    /// All specs of one kind.
    pub fn specs(&self, kind: &str) -> String {
        self.under(&format!("specs/{}/", kind.to_ascii_lowercase()))
    }

    /// One declared object.
    pub fn spec(&self, kind: &str, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.specs(kind))
    }

    /// What the controller says of a service.
    pub fn service_status(&self, namespace: &str, name: &str) -> String {
        self.under(&format!("status/services/{namespace}/{name}"))
    }

    /// All hosts.
    pub fn nodes(&self) -> String {
        self.under("nodes/")
    }

    /// One host.
    pub fn node(&self, id: NodeId) -> String {
        self.under(&format!("nodes/{id}"))
    }

    /// Who holds a host name: two hosts cannot have one.
    pub fn name(&self, name: &str) -> String {
        self.under(&format!("names/{name}"))
    }

    /// All hosts' reports of their members.
    pub fn node_statuses(&self) -> String {
        self.under("status/nodes/")
    }

    /// One host's report.
    pub fn node_status(&self, id: NodeId) -> String {
        self.under(&format!("status/nodes/{id}"))
    }

    /// All endpoints that can take requests.
    pub fn endpoints(&self) -> String {
        self.under("status/endpoints/")
    }

    /// One incarnation's endpoint. The epoch is part of the key, so that a host that cleans up
    /// after an old incarnation cannot take the new one's away.
    pub fn endpoint(&self, group: &GroupId, epoch: Epoch) -> String {
        let GroupId { namespace, service, index } = group;
        format!("{}{namespace}/{service}/{index}/{epoch}", self.endpoints())
    }

    /// All groups.
    pub fn groups(&self) -> String {
        self.under("groups/")
    }

    /// One group's plan.
    pub fn group(&self, group: &GroupId) -> String {
        format!("{}{}/{}/{}", self.groups(), group.namespace, group.service, group.index)
    }

    /// All gateways.
    pub fn gateways(&self) -> String {
        self.under("gateways/")
    }

    /// One gateway.
    pub fn gateway(&self, id: NodeId) -> String {
        self.under(&format!("gateways/{id}"))
    }

    fn under(&self, rest: &str) -> String {
        format!("{}{rest}", self.root)
    }
}
