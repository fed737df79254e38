//! From a declared service to what its groups are to run.

use std::fmt;

use serde_json::{Value, json};
use troupe_runtime::{
    discovery::directory::{Launch, MemberPer, RestartPolicy, StartupPolicy},
    id::GroupId,
    spec::{EngineFlags, ServiceSpec, service},
};

use super::{restart::Budget, rollout::Rollout, wishes::Wishes};

/// The kind under which services are stored.
pub const KIND: &str = service::KIND;

/// Why a revision was declared; as kubectl writes it.
const CAUSE: &str = "kubernetes.io/change-cause";
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
    pub policy: Policy,
    /// Why it was declared, for its history.
    pub cause: Option<String>,
    /// `metadata` and `spec` as they were declared.
    pub document: Value,
}

/// How groups live and change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What a member's end means.
    pub restart: RestartPolicy,
    /// When members are started.
    pub startup: StartupPolicy,
    /// How often a group may fail.
    pub budget: Budget,
    /// How a new revision replaces an old one.
    pub rollout: Rollout,
    /// How many seconds a group has for what it has begun; none is thirty, as in Kubernetes.
    pub grace: Option<u32>,
}

// === impl ServiceName ===

impl ServiceName {
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
    /// What a specification asks for.
    ///
    /// # Errors
    /// The field that cannot be, and what could.
    pub fn new(spec: &ServiceSpec) -> Result<Self, String> {
        let template = spec.workload.template.as_ref();
        let per = spec.metadata.annotations.get(MEMBER_PER).map(String::as_str);
        let member_per = match per {
            None | Some("host") => MemberPer::Host,
            Some("stage") => MemberPer::Stage,
            Some("rank") => MemberPer::Rank,
            Some(other) => {
                return Err(format!(
                    "metadata.annotations[{MEMBER_PER}]: must be host, stage or rank, got {other}"
                ));
            }
        };
        let metadata = &spec.metadata;
        let document = json!({
            "metadata": spec.document.get("metadata"),
            "spec": spec.document.get("spec"),
        });
        Ok(Self {
            name: ServiceName {
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
            },
            generation: metadata.generation,
            replicas: spec.workload.replicas,
            launch: Launch {
                model_uri: spec.model.uri.clone(),
                model_name: spec.model_name().to_owned(),
                tensor_parallel: spec.workload.parallelism.tensor,
                pipeline_parallel: spec.workload.parallelism.pipeline,
                member_per,
                flags: template.map(|pod| pod.flags.clone()).unwrap_or_default(),
            },
            wishes: Wishes::default(),
            policy: Policy::default(),
            cause: metadata.annotations.get(CAUSE).cloned(),
            document,
        })
    }
}

/// Reads what is stored of a service: the object as it was declared.
///
/// # Errors
/// What is wrong with it.
pub fn from_stored(value: &[u8]) -> Result<Desired, String> {
    let document: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let (spec, _) = ServiceSpec::from_document(document).map_err(|error| error.to_string())?;
    Desired::new(&spec)
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
