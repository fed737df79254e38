//! From a declared service to what its groups are to run.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Value, json};
use troupe_runtime::{
    discovery::directory::{Launch, MemberPer},
    id::GroupId,
    spec::{EngineFlags, GroupPolicy, LeaderWorkerSet, ServiceSpec, service},
};

use super::wishes::Wishes;

/// The kind under which services are stored.
pub const KIND: &str = service::KIND;

/// Why a revision was declared; as kubectl writes it.
const CAUSE: &str = "kubernetes.io/change-cause";
/// Another value forms all groups anew; ours, and as `kubectl rollout restart` writes it.
const RESTARTED_AT: [&str; 2] = ["troupe.dev/restartedAt", "kubectl.kubernetes.io/restartedAt"];
/// How ranks are divided into members: `host` (the default), `stage` or `rank`.
pub const MEMBER_PER: &str = "troupe.dev/member-per";

/// A service by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

/// A declared service, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Which.
    pub name: ServiceName,
    /// Grows with each change of the specification.
    pub generation: u64,
    /// How many groups.
    pub replicas: u32,
    /// What each is to run.
    pub launch: Launch,
    /// Where.
    pub wishes: Wishes,
    /// How groups live and change.
    pub policy: GroupPolicy,
    /// How many seconds a group has for what it has begun, if the service says so.
    pub grace: Option<u32>,
    /// Why it was declared, for its history.
    pub cause: Option<String>,
    /// `metadata` and `spec` as they were declared.
    pub document: Value,
}

// === impl ServiceName ===

impl ServiceName {
    /// By its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The service that a group belongs to.
    pub fn of(group: &GroupId) -> Self {
        Self { namespace: group.namespace.clone(), name: group.service.clone() }
    }

    /// One of its groups.
    pub fn group(&self, index: u32) -> GroupId {
        GroupId { namespace: self.namespace.clone(), service: self.name.clone(), index }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Desired ===

impl Desired {
    /// What a specification asks for, with the `LeaderWorkerSet` of its name.
    ///
    /// # Errors
    /// The field that cannot be, and what could.
    pub fn new(spec: &ServiceSpec, set: Option<&LeaderWorkerSet>) -> Result<Self, String> {
        let (metadata, workload) = (&spec.metadata, &spec.workload);
        let parallelism = workload.parallelism;
        if parallelism.data > 1 {
            let data = parallelism.data;
            return Err(format!("spec.parallelism.data: must be 1 for now, got {data}"));
        }
        let policy = workload.group_policy(set);
        // A worker's pod says that there are several hosts; a set says how many.
        let members = match (set, &workload.worker) {
            (Some(set), _) if set.size > 1 => Some(set.size),
            (_, Some(_)) if parallelism.pipeline > 1 => Some(parallelism.pipeline),
            _ => None,
        };
        let template = workload.template.as_ref();
        let mut wishes = wishes(&policy, members, &metadata.annotations);
        for pod in template.into_iter().chain(&workload.worker) {
            wishes.add(pod);
        }
        let launch = Launch {
            model_uri: spec.model.uri.clone(),
            model_name: spec.model_name().to_owned(),
            tensor_parallel: parallelism.tensor,
            pipeline_parallel: parallelism.pipeline,
            member_per: member_per(&metadata.annotations)?,
            flags: template.map(|pod| pod.flags.clone()).unwrap_or_default(),
        };
        check_members(&launch, &wishes)?;
        Ok(Self {
            name: ServiceName::new(&metadata.namespace, &metadata.name),
            generation: metadata.generation,
            replicas: workload.initial_replicas(),
            launch,
            wishes,
            policy,
            grace: template.and_then(|pod| pod.grace).map(seconds),
            cause: metadata.annotations.get(CAUSE).cloned(),
            document: document(&spec.document),
        })
    }
}

fn member_per(annotations: &BTreeMap<String, String>) -> Result<MemberPer, String> {
    match annotations.get(MEMBER_PER).map(String::as_str) {
        None | Some("host") => Ok(MemberPer::Host),
        Some("stage") => Ok(MemberPer::Stage),
        Some("rank") => Ok(MemberPer::Rank),
        Some(other) => Err(format!(
            "metadata.annotations[{MEMBER_PER}]: must be host, stage or rank, got {other}"
        )),
    }
}

fn wishes(
    policy: &GroupPolicy,
    members: Option<u32>,
    annotations: &BTreeMap<String, String>,
) -> Wishes {
    let restarted = RESTARTED_AT.into_iter().find_map(|name| annotations.get(name));
    Wishes {
        members,
        tensor_across_hosts: policy.tensor_across_hosts,
        exclusive_topology: policy.exclusive_topology.clone(),
        restarted_at: restarted.cloned(),
        ..Wishes::default()
    }
}

/// Members of equal size, none with a part of a stage unless that may be.
fn check_members(launch: &Launch, wishes: &Wishes) -> Result<(), String> {
    let (tensor, stages) = (launch.tensor_parallel, launch.pipeline_parallel);
    let Some(members) = wishes.members.filter(|_| launch.member_per == MemberPer::Host) else {
        return Ok(());
    };
    let ranks = tensor * stages;
    let whole = stages.is_multiple_of(members) || wishes.tensor_across_hosts;
    if ranks.is_multiple_of(members) && whole {
        return Ok(());
    }
    Err(format!(
        "spec.parallelism: {stages} stages of {tensor} ranks cannot be divided over {members} \
         members evenly; the number of stages must be a multiple of the number of members"
    ))
}

/// What is kept of a declaration, to go back to.
fn document(whole: &Value) -> Value {
    json!({ "metadata": whole.get("metadata"), "spec": whole.get("spec") })
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// Reads what is stored of a service: the object as it was declared.
///
/// # Errors
/// What is wrong with it.
pub fn from_stored(value: &[u8]) -> Result<Desired, String> {
    let document: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let (spec, _) = ServiceSpec::from_document(document).map_err(|error| error.to_string())?;
    Desired::new(&spec, None)
}

/// Declares a launch as a service, as a person would have written it.
pub fn declare(name: &str, replicas: u32, launch: &Launch) -> Value {
    let per = match launch.member_per {
        MemberPer::Host => "host",
        MemberPer::Stage => "stage",
        MemberPer::Rank => "rank",
    };
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": "default",
            "generation": 1,
            "annotations": { MEMBER_PER: per },
        },
        "spec": {
            "model": { "uri": launch.model_uri, "name": launch.model_name },
            "replicas": replicas,
            "parallelism": {
                "tensor": launch.tensor_parallel,
                "pipeline": launch.pipeline_parallel,
            },
            "template": { "containers": [{ "name": "main", "args": launch.flags.to_args() }] },
        },
    })
}

/// A launch of one model without further wishes.
pub fn launch(model_uri: String, model_name: String, flags: EngineFlags) -> Launch {
    Launch {
        model_uri,
        model_name,
        tensor_parallel: 1,
        pipeline_parallel: 1,
        member_per: MemberPer::Host,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_what_is_desired() {
        let flags = EngineFlags {
            max_num_seqs: Some(7),
            dtype: Some("float32".into()),
            stage_time_min_ms: Some(20),
            served_model_name: vec!["a".into(), "b".into()],
            ..EngineFlags::default()
        };
        let mut launch = launch("file:///models/m".into(), "m".into(), flags);
        launch.tensor_parallel = 2;
        launch.member_per = MemberPer::Stage;
        let stored = declare("s", 3, &launch).to_string();
        let desired = from_stored(stored.as_bytes()).expect("a good service");
        assert_eq!((desired.name.to_string().as_str(), desired.replicas), ("default/s", 3));
        assert_eq!(desired.launch, launch);
    }

    #[test]
    fn an_annotation_that_cannot_be_is_named() {
        let launch = launch("file:///m".into(), "m".into(), EngineFlags::default());
        let mut document = declare("s", 1, &launch);
        document["metadata"]["annotations"][MEMBER_PER] = json!("galaxy");
        let error = from_stored(document.to_string().as_bytes()).expect_err("no such member");
        assert!(error.contains(MEMBER_PER) && error.contains("galaxy"), "{error}");
    }
}
