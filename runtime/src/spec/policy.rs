//! How groups live: LeaderWorkerSet's rules, and what it lacks.
//!
//! They come from the `LeaderWorkerSet` that has the service's name and namespace, if there is one,
//! and from the service itself, which wins field by field: its `rolloutStrategy` and annotations.
//! Annotations are read from `metadata`, then from `spec` or `spec.prefill`, where a configuration
//! can set them.
//!
//! | annotation | is |
//! |---|---|
//! | `troupe.dev/restart-policy` | `RecreateGroupOnPodRestart`, `RecreateGroupAfterStart` or `None` |
//! | `troupe.dev/startup-policy` | `LeaderCreated` or `LeaderReady` |
//! | `troupe.dev/rollout-partition` | groups of a lower index keep the old revision |
//! | `troupe.dev/rollout-paused` | `true`: no group takes up a new revision; `rollout pause` sets it |
//! | `troupe.dev/max-group-restarts` | failures in a row before the group is `Failed`, or `unlimited` |
//! | `troupe.dev/restart-backoff`, `troupe.dev/restart-backoff-max` | durations: `1s`, `60s` |
//! | `troupe.dev/restartedAt` | another value forms all groups anew, as a rollout |
//! | `troupe.dev/tensor-across-hosts` | `true`: a stage may be divided over hosts |
//! | `leaderworkerset.sigs.k8s.io/exclusive-topology` | a node label: no two groups share one value |
//! | `leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology` | the same, for the subgroups of a group |

use std::{collections::BTreeMap, time::Duration};

pub use crate::discovery::directory::{RestartPolicy, StartupPolicy};

use super::{
    finding::Findings,
    lws::LeaderWorkerSet,
    quantity::{IntOrPercent, duration},
    reader::{Fields, alternatives},
};

/// How groups live, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPolicy {
    /// What the death of one member means.
    pub restart: RestartPolicy,
    /// When workers are started.
    pub startup: StartupPolicy,
    /// How a new revision replaces an old one.
    pub rollout: Rollout,
    /// Whether groups keep the revision that they have.
    pub paused: bool,
    /// How often in a row a group may fail before it is given up; `None` is for ever. A group that
    /// has served starts to count anew.
    pub max_restarts: Option<u32>,
    /// How long to wait before the second attempt; twice as long before each further one.
    pub backoff: Duration,
    /// The longest that is waited.
    pub backoff_max: Duration,
    /// Whether the tensor-parallel ranks of a stage may be on several hosts.
    pub tensor_across_hosts: bool,
    /// A node label: nodes of one value of it have members of one group at most.
    pub exclusive_topology: Option<String>,
    /// A node label: nodes of one value of it have members of one subgroup at most.
    pub subgroup_exclusive_topology: Option<String>,
}

/// How a new revision replaces an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Groups of a lower index keep the old revision.
    pub partition: u32,
    /// How many groups may be away at once.
    pub max_unavailable: IntOrPercent,
    /// How many groups more than wanted there may be meanwhile.
    pub max_surge: IntOrPercent,
}

/// What a service says of its groups; what it does not say comes from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOverrides {
    /// `troupe.dev/restart-policy`.
    pub restart: Option<RestartPolicy>,
    /// `troupe.dev/startup-policy`.
    pub startup: Option<StartupPolicy>,
    /// `troupe.dev/rollout-partition`.
    pub partition: Option<u32>,
    /// `troupe.dev/rollout-paused`.
    pub paused: Option<bool>,
    /// `rolloutStrategy.maxUnavailable`.
    pub max_unavailable: Option<IntOrPercent>,
    /// `rolloutStrategy.maxSurge`.
    pub max_surge: Option<IntOrPercent>,
    /// `troupe.dev/max-group-restarts`; the inner `None` is `unlimited`.
    pub max_restarts: Option<Option<u32>>,
    /// `troupe.dev/restart-backoff`.
    pub backoff: Option<Duration>,
    /// `troupe.dev/restart-backoff-max`.
    pub backoff_max: Option<Duration>,
    /// `troupe.dev/tensor-across-hosts`.
    pub tensor_across_hosts: Option<bool>,
    /// `leaderworkerset.sigs.k8s.io/exclusive-topology`.
    pub exclusive_topology: Option<String>,
    /// `leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology`.
    pub subgroup_exclusive_topology: Option<String>,
}

// === impl GroupPolicy ===

impl Default for GroupPolicy {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::default(),
            startup: StartupPolicy::default(),
            rollout: Rollout::default(),
            paused: false,
            // With the waits below, five minutes of trying.
            max_restarts: Some(10),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            tensor_across_hosts: false,
            exclusive_topology: None,
            subgroup_exclusive_topology: None,
        }
    }
}

impl GroupPolicy {
    /// The wait before a group is formed again that has failed so many times in a row. The first
    /// failure is answered at once.
    pub fn wait(&self, failures: u32) -> Duration {
        match failures {
            0 | 1 => Duration::ZERO,
            more => {
                let factor = 2_u32.saturating_pow(more - 2);
                self.backoff.saturating_mul(factor).min(self.backoff_max)
            }
        }
    }
}

// === impl Rollout ===

impl Default for Rollout {
    fn default() -> Self {
        let (max_unavailable, max_surge) = (IntOrPercent::Count(1), IntOrPercent::Count(0));
        Self { partition: 0, max_unavailable, max_surge }
    }
}

impl Rollout {
    /// Whether it forbids every step whatever the number of groups.
    pub(super) fn is_stuck(&self) -> bool {
        self.max_unavailable.ceil_of(1) == 0 && self.max_surge.ceil_of(1) == 0
    }

    /// How many groups may be away and how many may be added, of so many. Where shares round both
    /// to nothing one may be away, or the rollout would never end.
    pub fn bounds(&self, replicas: u32) -> (u32, u32) {
        match (self.max_unavailable.floor_of(replicas), self.max_surge.ceil_of(replicas)) {
            (0, 0) => (1, 0),
            bounds => bounds,
        }
    }
}

// === impl PolicyOverrides ===

impl PolicyOverrides {
    /// The policy of a service, over that of the set of its name.
    pub fn over(&self, set: Option<&LeaderWorkerSet>) -> GroupPolicy {
        let base = set.map(|set| set.policy.clone()).unwrap_or_default();
        let rollout = Rollout {
            partition: self.partition.unwrap_or(base.rollout.partition),
            max_unavailable: self.max_unavailable.unwrap_or(base.rollout.max_unavailable),
            max_surge: self.max_surge.unwrap_or(base.rollout.max_surge),
        };
        let subgroup = &self.subgroup_exclusive_topology;
        GroupPolicy {
            restart: self.restart.unwrap_or(base.restart),
            startup: self.startup.unwrap_or(base.startup),
            rollout,
            paused: self.paused.unwrap_or(base.paused),
            max_restarts: self.max_restarts.unwrap_or(base.max_restarts),
            backoff: self.backoff.unwrap_or(base.backoff),
            backoff_max: self.backoff_max.unwrap_or(base.backoff_max),
            tensor_across_hosts: self.tensor_across_hosts.unwrap_or(base.tensor_across_hosts),
            exclusive_topology: self.exclusive_topology.clone().or(base.exclusive_topology),
            subgroup_exclusive_topology: subgroup.clone().or(base.subgroup_exclusive_topology),
        }
    }

    /// What annotations say, each looked for in all of the maps, the first of which wins.
    pub(super) fn read(maps: &[(String, &BTreeMap<String, String>)], findings: &Findings) -> Self {
        let notes = Annotations { maps, findings };
        notes.warn_of_unknown();
        Self {
            restart: notes.one_of(RESTART, &RESTART_POLICIES),
            startup: notes.one_of(STARTUP, &STARTUP_POLICIES),
            partition: notes.parsed(PARTITION, "a whole number", |text| text.parse().ok()),
            paused: notes.one_of(PAUSED, &[("true", true), ("false", false)]),
            max_unavailable: None,
            max_surge: None,
            max_restarts: notes.parsed(MAX_RESTARTS, "a whole number or unlimited", restarts),
            backoff: notes.parsed(BACKOFF, "a duration as 1s", duration),
            backoff_max: notes.parsed(BACKOFF_MAX, "a duration as 60s", duration),
            tensor_across_hosts: notes.one_of(TENSOR, &[("true", true), ("false", false)]),
            exclusive_topology: notes.text(EXCLUSIVE),
            subgroup_exclusive_topology: notes.text(SUBGROUP_EXCLUSIVE),
        }
    }

    /// `rolloutStrategy` of a workload.
    pub(super) fn read_rollout(&mut self, strategy: &Fields<'_>) {
        self.max_unavailable = IntOrPercent::read(strategy, "maxUnavailable");
        self.max_surge = IntOrPercent::read(strategy, "maxSurge");
    }
}

/// Texts under names, in several places.
struct Annotations<'a> {
    maps: &'a [(String, &'a BTreeMap<String, String>)],
    findings: &'a Findings,
}

impl<'a> Annotations<'a> {
    fn find(&self, name: &str) -> Option<(String, &'a str)> {
        let found = self.maps.iter().find_map(|(path, map)| {
            map.get(name).map(|text| (format!("{path}[{name}]"), text.as_str()))
        });
        found.filter(|(_, text)| !self.findings.is_template(text))
    }

    fn text(&self, name: &str) -> Option<String> {
        let (path, text) = self.find(name)?;
        if text.is_empty() {
            self.findings.problem(path, "must be the name of a node label, is empty");
            return None;
        }
        Some(text.to_owned())
    }

    fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(name, &alternatives(&known), |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    fn parsed<T>(&self, name: &str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (path, text) = self.find(name)?;
        let value = parse(text);
        if value.is_none() {
            self.findings.problem(path, format!("must be {right}, got {text}"));
        }
        value
    }

    fn warn_of_unknown(&self) {
        for (path, map) in self.maps {
            for name in map.keys() {
                if name.starts_with("troupe.dev/") && !OURS.contains(&name.as_str()) {
                    let path = format!("{path}[{name}]");
                    self.findings.warn(path, "is not known and has no effect");
                }
            }
        }
    }
}

fn restarts(text: &str) -> Option<Option<u32>> {
    if text == "unlimited" { Some(None) } else { text.parse().ok().map(Some) }
}

/// LeaderWorkerSet's words. `Default` is an old name of `None`.
pub(super) const RESTART_POLICIES: [(&str, RestartPolicy); 4] = [
    ("RecreateGroupOnPodRestart", RestartPolicy::RecreateGroupOnPodRestart),
    ("RecreateGroupAfterStart", RestartPolicy::RecreateGroupAfterStart),
    ("None", RestartPolicy::None),
    ("Default", RestartPolicy::None),
];
/// LeaderWorkerSet's words.
pub(super) const STARTUP_POLICIES: [(&str, StartupPolicy); 2] =
    [("LeaderCreated", StartupPolicy::LeaderCreated), ("LeaderReady", StartupPolicy::LeaderReady)];

const RESTART: &str = "troupe.dev/restart-policy";
const STARTUP: &str = "troupe.dev/startup-policy";
const PARTITION: &str = "troupe.dev/rollout-partition";
/// Groups keep the revision that they have.
pub const PAUSED: &str = "troupe.dev/rollout-paused";
const MAX_RESTARTS: &str = "troupe.dev/max-group-restarts";
const BACKOFF: &str = "troupe.dev/restart-backoff";
const BACKOFF_MAX: &str = "troupe.dev/restart-backoff-max";
const TENSOR: &str = "troupe.dev/tensor-across-hosts";
/// Another value of it forms all groups anew.
const RESTARTED_AT: &str = "troupe.dev/restartedAt";
/// Read by whoever divides groups into members.
const MEMBER_PER: &str = "troupe.dev/member-per";
const EXCLUSIVE: &str = "leaderworkerset.sigs.k8s.io/exclusive-topology";
pub(super) const SUBGROUP_EXCLUSIVE: &str =
    "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology";

/// Every annotation of ours.
const OURS: [&str; 10] = [
    RESTART,
    STARTUP,
    PARTITION,
    PAUSED,
    MAX_RESTARTS,
    BACKOFF,
    BACKOFF_MAX,
    TENSOR,
    RESTARTED_AT,
    MEMBER_PER,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[(&str, &str)]) -> (PolicyOverrides, Vec<String>, Vec<String>) {
        let map = texts.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        let findings = Findings::default();
        let read = PolicyOverrides::read(&[("metadata.annotations".into(), &map)], &findings);
        let (problems, warnings) = findings.into_parts();
        let texts = |all: Vec<crate::spec::Finding>| all.iter().map(ToString::to_string).collect();
        (read, texts(problems), texts(warnings))
    }

    #[test]
    fn every_annotation_has_its_field() {
        let (read, problems, warnings) = read(&[
            (RESTART, "RecreateGroupAfterStart"),
            (STARTUP, "LeaderReady"),
            (PARTITION, "2"),
            (PAUSED, "true"),
            (MAX_RESTARTS, "unlimited"),
            (BACKOFF, "500ms"),
            (BACKOFF_MAX, "5m"),
            (TENSOR, "true"),
            (MEMBER_PER, "stage"),
            (EXCLUSIVE, "rack"),
            (SUBGROUP_EXCLUSIVE, "host"),
            ("team.example/x", "y"),
        ]);
        assert_eq!((problems, warnings), (vec![], vec![]));
        let policy = read.over(None);
        let wanted = GroupPolicy {
            restart: RestartPolicy::RecreateGroupAfterStart,
            startup: StartupPolicy::LeaderReady,
            rollout: Rollout { partition: 2, ..Rollout::default() },
            paused: true,
            max_restarts: None,
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(300),
            tensor_across_hosts: true,
            exclusive_topology: Some("rack".into()),
            subgroup_exclusive_topology: Some("host".into()),
        };
        assert_eq!(policy, wanted);
    }

    #[test]
    fn what_cannot_be_is_told_and_what_is_unknown_too() {
        let (read, problems, warnings) =
            read(&[(RESTART, "Never"), (MAX_RESTARTS, "-1"), ("troupe.dev/restart", "x")]);
        assert_eq!(read, PolicyOverrides::default());
        assert_eq!(
            problems,
            [
                "metadata.annotations[troupe.dev/restart-policy]: must be \
                 RecreateGroupOnPodRestart, RecreateGroupAfterStart, None or Default, got Never",
                "metadata.annotations[troupe.dev/max-group-restarts]: must be a whole number or \
                 unlimited, got -1",
            ]
        );
        let unknown =
            "metadata.annotations[troupe.dev/restart]: is not known and has no effect".to_owned();
        assert_eq!(warnings, [unknown]);
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let policy = GroupPolicy::default();
        let seconds: Vec<u64> = (0..10).map(|failures| policy.wait(failures).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(policy.wait(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn a_rollout_can_always_go_on() {
        let quarter = IntOrPercent::Percent(25);
        let rollout =
            Rollout { partition: 0, max_unavailable: quarter, max_surge: IntOrPercent::Count(0) };
        assert_eq!(rollout.bounds(8), (2, 0));
        assert_eq!(rollout.bounds(3), (1, 0));
        assert_eq!(Rollout { max_surge: quarter, ..rollout }.bounds(3), (0, 1));
    }
}
