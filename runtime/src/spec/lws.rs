//! `LeaderWorkerSet`: how the groups of the service of its name live.
//!
//! In Kubernetes it starts pods; here an `LLMInferenceService` says what runs, and a set of its
//! name and namespace lends it policy and topology. It is held to what the project's own webhook
//! holds it to, so that what is taken here would be taken there.

use serde_json::Value;

use super::{
    Finding, SpecError,
    finding::Findings,
    kind::Kind,
    metadata::{self, Metadata},
    pod::{self, PodSpec},
    policy::{
        GroupPolicy, PolicyOverrides, RESTART_POLICIES, Rollout, STARTUP_POLICIES,
        SUBGROUP_EXCLUSIVE,
    },
    quantity::IntOrPercent,
    reader::Fields,
};

/// A set.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderWorkerSet {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// How many groups.
    pub replicas: u32,
    /// How many members each has, the leader among them.
    pub size: u32,
    /// How they live.
    pub policy: GroupPolicy,
    /// How members of a group are put together, if they are.
    pub subgroup: Option<SubGroup>,
    /// The leader's pod, if it is another than the workers'.
    pub leader: Option<PodSpec>,
    /// The workers' pod.
    pub worker: PodSpec,
    /// How the members' names are found.
    pub subdomain: SubdomainPolicy,
}

/// Members that belong together: on one host, or near each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubGroup {
    /// How many members.
    pub size: u32,
    /// Whether the leader is in one of them.
    pub kind: SubGroupKind,
}

/// Whether the leader is in a subgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubGroupKind {
    /// It is.
    #[default]
    LeaderWorker,
    /// It is not.
    LeaderExcluded,
}

/// `networkConfig.subdomainPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubdomainPolicy {
    /// One for all groups.
    #[default]
    Shared,
    /// One for each group.
    UniquePerReplica,
}

impl LeaderWorkerSet {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let set = read(document, &findings);
        findings.result(set)
    }

    /// What may not change when this one replaces an older one; empty if all is well.
    pub fn check_update(&self, old: &Self) -> Vec<Finding> {
        let message = match (old.subgroup, self.subgroup) {
            (None, Some(_)) => "cannot be added to a set that is there already".to_owned(),
            (Some(_), None) => "cannot be taken from a set that is there already".to_owned(),
            (Some(old), Some(new)) if old.size != new.size => {
                format!("cannot be changed, was {} and would be {}", old.size, new.size)
            }
            _ => return Vec::new(),
        };
        vec![Finding::new("spec.leaderWorkerTemplate.subGroupPolicy.subGroupSize", message)]
    }
}

/// `None` only together with a problem.
pub(super) fn read(document: Value, findings: &Findings) -> Option<LeaderWorkerSet> {
    let mut set = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::LeaderWorkerSet, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let (_, metadata) = head?;
        read_spec(&spec, metadata)?
    };
    set.document = document;
    Some(set)
}

fn read_spec(spec: &Fields<'_>, metadata: Metadata) -> Option<LeaderWorkerSet> {
    let findings = spec.findings();
    let replicas = spec.count_within("replicas", (0, MAX_REPLICAS)).unwrap_or(1);
    if spec.value("leaderWorkerTemplate").is_none() {
        spec.problem("leaderWorkerTemplate", "is required");
    }
    let template = spec.object("leaderWorkerTemplate")?;
    let size = template.count("size", 1).unwrap_or(1);
    if u64::from(replicas) * u64::from(size) > MAX_PODS {
        let product = u64::from(replicas) * u64::from(size);
        let message = format!("times size must be at most {MAX_PODS}, got {product}");
        spec.problem("replicas", message);
    }
    let subgroup = template.object("subGroupPolicy").map(|fields| read_subgroup(&fields, size));
    let annotations = &metadata.annotations;
    let maps = [("metadata.annotations".to_owned(), annotations)];
    if subgroup.is_none() && annotations.contains_key(SUBGROUP_EXCLUSIVE) {
        let path = format!("metadata.annotations[{SUBGROUP_EXCLUSIVE}]");
        let right = "must not be given without spec.leaderWorkerTemplate.subGroupPolicy";
        findings.problem(path, right);
    }
    let mut policy = PolicyOverrides::read(&maps, findings).over(None);
    if let Some(restart) = template.one_of("restartPolicy", &RESTART_POLICIES) {
        policy.restart = restart;
    }
    if template.value("restartPolicy").and_then(Value::as_str) == Some("Default") {
        template.warn("restartPolicy", "is an old name of None");
    }
    if let Some(startup) = spec.one_of("startupPolicy", &STARTUP_POLICIES) {
        policy.startup = startup;
    }
    policy.rollout = read_rollout(spec, replicas).unwrap_or_default();
    let network = spec.object("networkConfig");
    let subdomain = network.and_then(|network| {
        let words = [
            ("Shared", SubdomainPolicy::Shared),
            ("UniquePerReplica", SubdomainPolicy::UniquePerReplica),
        ];
        network.one_of("subdomainPolicy", &words)
    });
    let leader = template.object("leaderTemplate").and_then(|pod| pod::pod_template(&pod));
    if template.value("workerTemplate").is_none() {
        template.problem("workerTemplate", "is required");
    }
    let worker = template.object("workerTemplate").and_then(|pod| pod::pod_template(&pod));
    let volumes = ["volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy"];
    template.without_effect(&volumes, " outside Kubernetes");
    Some(LeaderWorkerSet {
        document: Value::Null,
        metadata,
        replicas,
        size,
        policy,
        subgroup: subgroup.flatten(),
        leader,
        worker: worker?,
        subdomain: subdomain.unwrap_or_default(),
    })
}

/// The most groups of a set, as the API has it.
const MAX_REPLICAS: u32 = 1_000_000;
/// The most pods of a set: LeaderWorkerSet counts them in 32 bits.
const MAX_PODS: u64 = i32::MAX as u64;

fn read_subgroup(fields: &Fields<'_>, size: u32) -> Option<SubGroup> {
    let words = [
        ("LeaderWorker", SubGroupKind::LeaderWorker),
        ("LeaderExcluded", SubGroupKind::LeaderExcluded),
    ];
    let kind = fields.one_of("type", &words).unwrap_or_default();
    if fields.value("subGroupSize").is_none() {
        fields.problem("subGroupSize", "is required");
    }
    let each = fields.count("subGroupSize", 1)?;
    let workers = size - 1;
    if each > size {
        fields.problem("subGroupSize", format!("must be at most size, got {each} and size {size}"));
    } else if kind == SubGroupKind::LeaderExcluded && !workers.is_multiple_of(each) {
        let message = format!("must divide size - 1 with LeaderExcluded, got {each} and {workers}");
        fields.problem("subGroupSize", message);
    } else if !size.is_multiple_of(each) && !workers.is_multiple_of(each) {
        let message = format!("must divide size or size - 1, got {each} and size {size}");
        fields.problem("subGroupSize", message);
    }
    Some(SubGroup { size: each, kind })
}

fn read_rollout(spec: &Fields<'_>, replicas: u32) -> Option<Rollout> {
    let strategy = spec.object("rolloutStrategy")?;
    let _ = strategy.one_of("type", &[("RollingUpdate", ())]);
    let configuration = strategy.object("rollingUpdateConfiguration")?;
    let default = Rollout::default();
    let of = |key, default| IntOrPercent::read(&configuration, key).unwrap_or(default);
    let rollout = Rollout {
        partition: configuration.count("partition", 0).unwrap_or(default.partition),
        max_unavailable: of("maxUnavailable", default.max_unavailable),
        max_surge: of("maxSurge", default.max_surge),
    };
    let (unavailable, surge) =
        (rollout.max_unavailable.floor_of(replicas), rollout.max_surge.ceil_of(replicas));
    if (unavailable, surge) == (0, 0) && replicas > 0 {
        let message = format!("must not be 0 of {replicas} groups when maxSurge is 0");
        configuration.problem("maxUnavailable", message);
    }
    Some(rollout)
}
