//! Where a service's groups may be, and how they are divided over hosts: the part of a revision
//! that the hosts never see. It is stored with each revision, so that a group of an older one that
//! has to move goes where that revision wanted it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use troupe_runtime::discovery::directory::{Launch, NodeRecord};

use crate::group::layout::{Division, Parallel};

/// What a service wants of the hosts that its groups are on.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Wishes {
    /// So many members of a group, each on a host of its own; as few hosts as can be if not said.
    pub members: Option<u32>,
    /// Whether the tensor ranks of a stage may be on several hosts.
    pub tensor_across_hosts: bool,
    /// The one host, by name.
    pub node_name: Option<String>,
    /// Labels that a host must have.
    pub node_selector: BTreeMap<String, String>,
    /// One of these must hold of a host's labels; none is no wish.
    pub node_terms: Vec<NodeTerm>,
    /// A label: a group is within one value of it, and no other group is there.
    pub exclusive_topology: Option<String>,
    /// How evenly members lie over the values of labels.
    pub spread: Vec<Spread>,
    /// When a person last asked for all groups to be formed anew.
    pub restarted_at: Option<String>,
}

/// Requirements that must all hold.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(transparent)]
pub struct NodeTerm(pub Vec<NodeRequirement>);

/// Something about one label.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeRequirement {
    /// The label.
    pub key: String,
    /// What is asked of it.
    #[serde(flatten)]
    pub operator: Operator,
}

/// What is asked of a label.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "operator", content = "values")]
pub enum Operator {
    /// It is there and has one of these values.
    In(Vec<String>),
    /// It is not there, or has none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// How evenly members lie over the values of a label.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label.
    pub key: String,
    /// How many more there may be at one value than at another.
    pub max_skew: u32,
    /// Whether it must be kept or is a wish.
    pub required: bool,
}

// === impl Wishes ===

impl Wishes {
    /// How a group that runs this is divided.
    pub fn division(&self, launch: &Launch) -> Division {
        Division {
            parallel: Parallel {
                tensor: launch.tensor_parallel,
                pipeline: launch.pipeline_parallel,
            },
            per: launch.member_per,
            members: self.members,
            across_hosts: self.tensor_across_hosts,
        }
    }

    /// Why a host may not be taken, as `does not have the label a=b`.
    pub(super) fn refusal(&self, host: &NodeRecord) -> Option<String> {
        if let Some(name) = self.node_name.as_ref().filter(|name| **name != host.name) {
            return Some(format!("is not the host {name}"));
        }
        let missing = |(key, value): &(&String, &String)| host.labels.get(*key) != Some(*value);
        if let Some((key, value)) = self.node_selector.iter().find(missing) {
            return Some(format!("does not have the label {key}={value}"));
        }
        if self.node_terms.is_empty() || self.node_terms.iter().any(|t| t.holds(&host.labels)) {
            return None;
        }
        let terms: Vec<String> = self.node_terms.iter().map(NodeTerm::told).collect();
        Some(format!("does not meet {}", terms.join(" or ")))
    }
}

// === impl NodeTerm ===

impl NodeTerm {
    /// A term that asks for nothing is met by none, as in Kubernetes.
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.0.is_empty() && self.0.iter().all(|requirement| requirement.holds(labels))
    }

    fn told(&self) -> String {
        let requirements: Vec<String> = self.0.iter().map(NodeRequirement::told).collect();
        requirements.join(" and ")
    }
}

// === impl NodeRequirement ===

impl NodeRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn told(&self) -> String {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => format!("{key} in ({})", values.join(", ")),
            Operator::NotIn(values) => format!("{key} not in ({})", values.join(", ")),
            Operator::Exists => format!("{key} exists"),
            Operator::DoesNotExist => format!("{key} does not exist"),
        }
    }
}
