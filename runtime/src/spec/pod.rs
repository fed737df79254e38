//! Pods as Kubernetes has them: what of them means something on plain machines.
//!
//! One container is the engine: `main`, or else the first. Its `args` are the engine's flags, and
//! its `resources` say how many devices each member has. Where pods may be is said by
//! `nodeSelector`, `affinity`, `tolerations` and `topologySpreadConstraints`, which become values
//! that a planner can ask. The rest (images, probes, volumes, ...) is taken with a warning.

mod nodes;
mod read;

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

pub use self::nodes::{
    Effect, NodeRequirement, NodeTerm, Operator, Taint, Toleration, TopologySpread,
};
pub(super) use self::read::{pod, pod_template};
use super::EngineFlags;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSpec {
    /// All of it.
    pub document: Value,
    /// The engine's `args`, after those of its `command` and `VLLM_ADDITIONAL_ARGS`.
    pub args: Vec<String>,
    /// What of them is known.
    pub flags: EngineFlags,
    /// What they say of parallelism, for a specification that does not.
    pub parallel: ParallelFlags,
    /// The engine's environment, as far as it is written out.
    pub env: BTreeMap<String, String>,
    /// The engine's `resources.limits`.
    pub limits: BTreeMap<String, String>,
    /// How many devices a member has, if the limits say so.
    pub devices: Option<Devices>,
    /// How much memory a member has, in bytes, if the limits say so.
    pub memory: Option<u64>,
    /// The one node that it may be on.
    pub node_name: Option<String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// `affinity.nodeAffinity`, required: one of these must hold; none is no wish.
    pub node_terms: Vec<NodeTerm>,
    /// Which taints it bears.
    pub tolerations: Vec<Toleration>,
    /// How pods are spread over nodes.
    pub topology_spread: Vec<TopologySpread>,
    /// `terminationGracePeriodSeconds`: how long running requests may take when it is drained.
    pub grace: Option<Duration>,
}

/// `nvidia.com/gpu: 4` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The resource's name.
    pub resource: String,
    /// How many.
    pub count: u32,
}

/// Parallelism as vLLM's flags say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParallelFlags {
    /// `--tensor-parallel-size`, `-tp`.
    pub tensor: Option<u32>,
    /// `--pipeline-parallel-size`, `-pp`.
    pub pipeline: Option<u32>,
    /// `--data-parallel-size`, `-dp`.
    pub data: Option<u32>,
    /// `--data-parallel-size-local`, `-dpl`.
    pub data_local: Option<u32>,
    /// `--enable-expert-parallel`, `-ep`.
    pub expert: Option<bool>,
}

impl PodSpec {
    /// Why the pod may not be on a node of this name, with these labels and taints; `None` if it
    /// may.
    pub fn refusal(
        &self,
        node: &str,
        labels: &BTreeMap<String, String>,
        taints: &[Taint],
    ) -> Option<String> {
        if let Some(name) = self.node_name.as_ref().filter(|name| *name != node) {
            return Some(format!("is not the node {name}"));
        }
        let missing =
            self.node_selector.iter().find(|(key, value)| labels.get(*key) != Some(value));
        if let Some((key, value)) = missing {
            return Some(format!("does not have the label {key}={value}"));
        }
        if !self.node_terms.is_empty() && !self.node_terms.iter().any(|term| term.holds(labels)) {
            let terms: Vec<String> = self.node_terms.iter().map(ToString::to_string).collect();
            return Some(format!("does not meet {}", terms.join(" or ")));
        }
        let repels = |taint: &&Taint| {
            taint.effect != Effect::PreferNoSchedule
                && !self.tolerations.iter().any(|toleration| toleration.bears(taint))
        };
        taints.iter().find(repels).map(|taint| format!("has the taint {taint}"))
    }
}

#[cfg(test)]
mod tests;
