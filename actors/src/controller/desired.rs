//! From a declared service to what its groups are to run.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Value, json};
use troupe_runtime::{
    discovery::directory::{Launch, MemberPer},
    id::GroupId,
    spec::{
        AppliedConfig, EngineFlags, GroupPolicy, LeaderWorkerSet, ServiceConfig, ServiceSpec,
        SpecError, resolve,
        service::{self, PREFILL_SIDE, Scaling, WorkloadSpec},
    },
    wire::status::Role,
};

use super::{offload, service::Problem, wishes::Wishes};

/// The kind under which services are stored.
pub const KIND: &str = service::KIND;

/// Why a declaration that is a service by itself cannot be one.
pub(super) const INVALID: &str = "InvalidSpec";

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

/// One workload of a declared service, resolved: all of it, or one of its two sides.
///
/// A service with `spec.prefill` has two, which come and go with it and are planned each on its
/// own: the one that decodes bears the service's name, the other is its [`ServiceName::prefill`].
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Which.
    pub name: ServiceName,
    /// Grows with each change of the specification.
    pub generation: u64,
    /// How many groups.
    pub replicas: u32,
    /// How their number follows the load, if it does; `replicas` is where it begins.
    pub scaling: Option<Scaling>,
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
    /// The configurations that it is made of.
    pub applied: Vec<AppliedConfig>,
}

// === impl ServiceName ===

impl ServiceName {
    /// By its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The side of it that prefills, if that is apart. No service can be declared under this name,
    /// because that has a dot.
    #[must_use]
    pub fn prefill(&self) -> Self {
        Self { namespace: self.namespace.clone(), name: format!("{}{PREFILL_SIDE}", self.name) }
    }

    /// The service as it was declared, of which this may be a side.
    #[must_use]
    pub fn declared(&self) -> Self {
        let name = self.name.strip_suffix(PREFILL_SIDE).unwrap_or(&self.name);
        Self { namespace: self.namespace.clone(), name: name.to_owned() }
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
    /// What a service asks for together with the configurations that it starts from and the
    /// `LeaderWorkerSet` of its name: one workload, or two if prefill is apart. `find` finds a
    /// configuration by namespace and name.
    ///
    /// # Errors
    /// What is not there or cannot be, with KServe's word for it.
    pub fn whole(
        service: &ServiceSpec,
        set: Option<&LeaderWorkerSet>,
        find: impl Fn(&str, &str) -> Option<ServiceConfig>,
    ) -> Result<Vec<Self>, Problem> {
        let generation = service.metadata.generation;
        let problem = |reason, message| Problem { generation, reason, message };
        let resolved = resolve(service, find).map_err(|error| {
            let reason = match &error {
                SpecError::ConfigNotFound(_) => "ConfigNotFound",
                SpecError::Invalid(_) | SpecError::Document(_) => "CombineBaseError",
            };
            problem(reason, error.to_string())
        })?;
        let sides = Self::sides(&resolved.spec, set);
        let sides = sides.map_err(|message| problem(INVALID, message))?;
        // What is gone back to is what the service said, not what was made of it.
        let document = document(&service.document);
        let whole =
            |side| Self { document: document.clone(), applied: resolved.applied.clone(), ..side };
        Ok(sides.into_iter().map(whole).collect())
    }

    /// What a specification asks for that is whole, with the `LeaderWorkerSet` of its name.
    ///
    /// # Errors
    /// The field that cannot be, and what could.
    pub fn sides(spec: &ServiceSpec, set: Option<&LeaderWorkerSet>) -> Result<Vec<Self>, String> {
        let Some(prefill) = &spec.prefill else {
            return Ok(vec![Self::side(spec, ("spec", &spec.workload), Role::Unified, set)?]);
        };
        let decodes = Self::side(spec, ("spec", &spec.workload), Role::Decode, set)?;
        // The set of its name is about the side that bears it.
        let prefills = Self::side(spec, ("spec.prefill", prefill), Role::Prefill, None)?;
        let name = decodes.name.prefill();
        Ok(vec![decodes, Self { name, ..prefills }])
    }

    fn side(
        spec: &ServiceSpec,
        (path, workload): (&str, &WorkloadSpec),
        role: Role,
        set: Option<&LeaderWorkerSet>,
    ) -> Result<Self, String> {
        let metadata = &spec.metadata;
        let parallelism = workload.parallelism;
        if parallelism.data > 1 {
            let data = parallelism.data;
            return Err(format!("{path}.parallelism.data: must be 1 for now, got {data}"));
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
            expert_parallel: parallelism.expert,
            member_per: member_per(&metadata.annotations)?,
            role,
            flags: {
                let mut flags = offload::flags(path, workload)?;
                flags.lora = flags.lora.with_spec(spec.model.lora.as_ref());
                let room = flags.lora.room();
                room.map_err(|why| format!("spec.model.lora or {path}.template: {why}"))?;
                flags
            },
        };
        check_members(path, &launch, &wishes)?;
        Ok(Self {
            name: ServiceName::new(&metadata.namespace, &metadata.name),
            generation: metadata.generation,
            replicas: workload.initial_replicas(),
            scaling: workload.scaling.clone(),
            launch,
            wishes,
            policy,
            grace: template.and_then(|pod| pod.grace).map(seconds),
            cause: metadata.annotations.get(CAUSE).cloned(),
            document: document(&spec.document),
            applied: Vec::new(),
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
fn check_members(path: &str, launch: &Launch, wishes: &Wishes) -> Result<(), String> {
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
        "{path}.parallelism: {stages} stages of {tensor} ranks cannot be divided over {members} \
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
                "expert": launch.expert_parallel,
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
        expert_parallel: false,
        member_per: MemberPer::Host,
        role: Role::Unified,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::spec::{LoraFlags, LoraModule};

    use super::*;

    fn desired(document: &Value) -> Result<Vec<Desired>, Problem> {
        let (spec, _) = ServiceSpec::from_document(document.clone()).expect("a service");
        Desired::whole(&spec, None, |_, _| None)
    }

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
        let sides = desired(&declare("s", 3, &launch)).expect("a good service");
        let [desired] = sides.try_into().expect("one workload");
        assert_eq!((desired.name.to_string().as_str(), desired.replicas), ("default/s", 3));
        assert_eq!(desired.launch, launch);
    }

    #[test]
    fn an_annotation_that_cannot_be_is_named() {
        let launch = launch("file:///m".into(), "m".into(), EngineFlags::default());
        let mut document = declare("s", 1, &launch);
        document["metadata"]["annotations"][MEMBER_PER] = json!("galaxy");
        let Problem { reason, message, .. } = desired(&document).expect_err("no such member");
        assert!(message.contains(MEMBER_PER) && message.contains("galaxy"), "{message}");
        assert_eq!(reason, INVALID);
    }

    #[test]
    fn adapters_are_settings_of_the_engine_by_flags_and_by_the_model() {
        let module = |name: &str| LoraModule { name: name.into(), path: format!("/{name}") };
        let lora =
            LoraFlags { modules: vec![module("a")], max_loras: Some(2), ..LoraFlags::default() };
        let flags = EngineFlags { lora, ..EngineFlags::default() };
        let launch = launch("file:///m".into(), "m".into(), flags);
        let mut document = declare("s", 1, &launch);
        let adapters = json!([{"name": "b", "uri": "/b"}]);
        document["spec"]["model"]["lora"] =
            json!({"adapters": adapters, "maxAdapters": 3, "maxRank": 64});
        let lora = &desired(&document).expect("a good service")[0].launch.flags.lora;
        assert_eq!(lora.modules, [module("a"), module("b")]);
        assert_eq!((lora.max_loras, lora.max_lora_rank), (Some(2), Some(64)), "flags say it last");
        document["spec"]["model"]["lora"]["maxCpuAdapters"] = json!(1);
        let Problem { message, .. } = desired(&document).expect_err("fewer than on the device");
        assert!(message.contains("--max-cpu-loras is 1, 2 to"), "{message}");
    }

    #[test]
    fn what_is_kept_beside_devices_is_a_setting_of_the_engine() {
        let flags = EngineFlags { kv_offloading_disk_bytes: Some(5), ..EngineFlags::default() };
        let mut document = declare("s", 1, &launch("file:///m".into(), "m".into(), flags));
        let disk = json!({"fileSystem": {"emptyDir": {"size": "2Gi"}}});
        document["spec"]["kvCacheOffloading"] = json!({"cpu": "1Gi", "secondary": [disk]});
        let sides = desired(&document).expect("a good service");
        let flags = &sides[0].launch.flags;
        let kept = (flags.kv_offloading_bytes, flags.kv_offloading_disk_bytes);
        assert_eq!(kept, (Some(1 << 30), Some(5)), "flags say it last");
    }

    #[test]
    fn a_service_that_prefills_apart_has_two_sides() {
        let launch = launch("file:///m".into(), "m".into(), EngineFlags::default());
        let mut document = declare("s", 2, &launch);
        document["spec"]["prefill"] = json!({
            "replicas": 3,
            "parallelism": {"tensor": 4},
            "template": {"containers": [{"name": "main", "args": ["--max-num-seqs=9"]}]},
        });
        let sides = desired(&document).expect("a good service");
        let told: Vec<_> = sides
            .iter()
            .map(|side| {
                let Launch { role, tensor_parallel, flags, .. } = &side.launch;
                let name = side.name.to_string();
                (name, side.replicas, *role, *tensor_parallel, flags.max_num_seqs)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("default/s".into(), 2, Role::Decode, 1, None),
                ("default/s.prefill".into(), 3, Role::Prefill, 4, Some(9)),
            ]
        );
        assert_eq!(sides[1].name.declared(), sides[0].name);
        document["spec"]["prefill"]["parallelism"] = json!({"data": 2, "dataLocal": 2});
        let Problem { message, .. } = desired(&document).expect_err("not yet");
        assert!(message.starts_with("spec.prefill.parallelism.data"), "{message}");
    }
}
