//! Every key of the store, and who writes it. No other file spells one.
//!
//! | key under `/troupe/<cluster>/` | writer | lives |
//! |---|---|---|
//! | `incarnation` | whoever finds it absent; every write compares it | for good |
//! | `ca` | whoever finds it absent | for good |
//! | `election` | the controller in office | its lease |
//! | `settled` | the controller in office: since when in this incarnation hosts have reported | for good |
//! | `specs/<kind>/<ns>/<name>` | who declares it; a node that knows a higher generation | for good |
//! | `status/services/<ns>/<name>` | the controller in office | for good |
//! | `status/nodes/<id>` | that node: its members' states, the epochs it has seen | the node's lease |
//! | `status/endpoints/<ns>/<service>/<g>/<epoch>` | the leader's node | the node's lease |
//! | `nodes/<id>` | that node | its lease |
//! | `deaths/<id>` | that node: how its last members died | its lease |
//! | `names/<name>` | the node that took the name | its lease |
//! | `homes/<id>` | the node with that identity: from which data directory it runs | its lease |
//! | `groups/<ns>/<service>/<g>` | the controller in office | for good |
//! | `gateways/<id>` | that gateway | its lease |
//! | `demand/<ns>/<service>/<gateway>` | that gateway, while it holds requests | its lease |
//! | `cordons/<node>` | who cordons or drains a host | for good |
//! | `labels/<node>` | who labels a host | for good |
//! | `revisions/<ns>/<service>/<n>` | the controller in office, the last 10 of each | for good |
//! | `events/<slot>` | the controller in office, a ring | for good |
//! | `control/<id>` | that control host | its lease |
//! | `tokens/<id>` | who creates, uses or revokes a join token | for good if it was used |
//! | `revoked/<id>` | who revokes an identity; a control host, if the store lost it | for good |

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

    /// Written once hosts had the time to tell a new life of the store what it should know: the
    /// incarnation that this is true of.
    pub fn settled(&self) -> String {
        self.under("settled")
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

    /// What all hosts say of members that died.
    pub fn all_deaths(&self) -> String {
        self.under("deaths/")
    }

    /// What one host says of its own.
    pub fn deaths(&self, id: NodeId) -> String {
        format!("{}{id}", self.all_deaths())
    }

    /// Who holds a host name: two hosts cannot have one.
    pub fn name(&self, name: &str) -> String {
        self.under(&format!("names/{name}"))
    }

    /// Where the process with an identity has it from: two directories cannot have one.
    pub fn home(&self, id: NodeId) -> String {
        self.under(&format!("homes/{id}"))
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

    /// All demand for services that have no endpoint.
    pub fn all_demand(&self) -> String {
        self.under("demand/")
    }

    /// One gateway's demand for a service.
    pub fn demand(&self, namespace: &str, service: &str, gateway: NodeId) -> String {
        format!("{}{namespace}/{service}/{gateway}", self.all_demand())
    }

    /// All hosts that nothing new is planned on.
    pub fn cordons(&self) -> String {
        self.under("cordons/")
    }

    /// One host's.
    pub fn cordon(&self, node: NodeId) -> String {
        format!("{}{node}", self.cordons())
    }

    /// The labels that people gave to hosts.
    pub fn all_node_labels(&self) -> String {
        self.under("labels/")
    }

    /// One host's.
    pub fn node_labels(&self, node: NodeId) -> String {
        format!("{}{node}", self.all_node_labels())
    }

    /// All statuses of services.
    pub fn service_statuses(&self) -> String {
        self.under("status/services/")
    }

    /// All revisions of all services.
    pub fn all_revisions(&self) -> String {
        self.under("revisions/")
    }

    /// All revisions of one service.
    pub fn revisions(&self, namespace: &str, service: &str) -> String {
        format!("{}{namespace}/{service}/", self.all_revisions())
    }

    /// One revision.
    pub fn revision(&self, namespace: &str, service: &str, number: u64) -> String {
        format!("{}{number}", self.revisions(namespace, service))
    }

    /// All events.
    pub fn events(&self) -> String {
        self.under("events/")
    }

    /// One place in the ring of events.
    pub fn event(&self, slot: u32) -> String {
        format!("{}{slot:04}", self.events())
    }

    /// All join tokens.
    pub fn tokens(&self) -> String {
        self.under("tokens/")
    }

    /// One join token, by the part of it that is no secret.
    pub fn token(&self, id: &str) -> String {
        format!("{}{id}", self.tokens())
    }

    /// All control hosts.
    pub fn all_control(&self) -> String {
        self.under("control/")
    }

    /// One control host.
    pub fn control(&self, id: NodeId) -> String {
        format!("{}{id}", self.all_control())
    }

    /// All identities that are no longer let in.
    pub fn all_revoked(&self) -> String {
        self.under("revoked/")
    }

    /// One of them.
    pub fn revoked(&self, id: NodeId) -> String {
        format!("{}{id}", self.all_revoked())
    }

    fn under(&self, rest: &str) -> String {
        format!("{}{rest}", self.root)
    }
}
