//! Where a service's groups may be, and how they are divided over hosts: the part of a revision
//! that the hosts never see. It is stored with each revision, so that a group of an older one that
//! has to move goes where that revision wanted it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use troupe_runtime::{
    discovery::directory::{Launch, NodeRecord},
    spec::pod::{NodeTerm, PodSpec, TopologySpread},
};

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
    /// Of each of these lists one must hold of a host's labels.
    pub node_terms: Vec<Vec<NodeTerm>>,
    /// A label: a group is within one value of it, and no other group is there.
    pub exclusive_topology: Option<String>,
    /// How evenly the service's members lie over the values of labels.
    pub spread: Vec<TopologySpread>,
    /// When a person last asked for all groups to be formed anew.
    pub restarted_at: Option<String>,
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
        let unmet = |terms: &&Vec<NodeTerm>| !terms.iter().any(|term| term.holds(&host.labels));
        let terms = self.node_terms.iter().find(unmet)?;
        let terms: Vec<String> = terms.iter().map(ToString::to_string).collect();
        Some(format!("does not meet {}", terms.join(" or ")))
    }

    /// Adds what a pod asks for; what several pods of a group ask for must hold of all its hosts.
    pub(super) fn add(&mut self, pod: &PodSpec) {
        if pod.node_name.is_some() {
            self.node_name.clone_from(&pod.node_name);
        }
        self.node_selector.extend(pod.node_selector.clone());
        if !pod.node_terms.is_empty() && !self.node_terms.contains(&pod.node_terms) {
            self.node_terms.push(pod.node_terms.clone());
        }
        for spread in &pod.topology_spread {
            if !self.spread.contains(spread) {
                self.spread.push(spread.clone());
            }
        }
    }
}
