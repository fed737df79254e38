//! Wishes about nodes: labels, taints, spreading. Each can be asked, and says itself in words.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Requirements that must all hold.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(transparent)]
pub struct NodeTerm(pub Vec<NodeRequirement>);

/// `matchExpressions`: something about one label.
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

/// What keeps pods away from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its name.
    pub key: String,
    /// Its value, which may be empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// What a taint does to pods that do not bear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None is started.
    NoSchedule,
    /// Others are started rather.
    PreferNoSchedule,
    /// None is started, and those that run end.
    NoExecute,
}

/// Which taints a pod bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// Of this name; `None` is any.
    pub key: Option<String>,
    /// With this value; `None` is any.
    pub value: Option<String>,
    /// With this effect; `None` is any.
    pub effect: Option<Effect>,
}

/// `topologySpreadConstraints`: how unevenly members may lie over the values of a label.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// The label.
    pub key: String,
    /// How many more there may be at one value than at another.
    pub max_skew: u32,
    /// Whether it must be kept (`DoNotSchedule`) or is a wish (`ScheduleAnyway`).
    pub required: bool,
}

impl NodeTerm {
    /// Whether a node of these labels meets it. A term that asks for nothing is met by none, as in
    /// Kubernetes.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.0.is_empty() && self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl NodeRequirement {
    /// Whether a node of these labels meets it.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl Toleration {
    /// Whether it is about this taint.
    pub fn bears(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

impl fmt::Display for NodeTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requirements: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&requirements.join(" and "))
    }
}

impl fmt::Display for NodeRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => write!(f, "{key} in ({})", values.join(", ")),
            Operator::NotIn(values) => write!(f, "{key} not in ({})", values.join(", ")),
            Operator::Exists => write!(f, "{key} exists"),
            Operator::DoesNotExist => write!(f, "{key} does not exist"),
        }
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect } = self;
        match value.is_empty() {
            true => write!(f, "{key}:{effect:?}"),
            false => write!(f, "{key}={value}:{effect:?}"),
        }
    }
}
