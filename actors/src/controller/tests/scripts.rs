//! The planner as readable scripts: `scripts/*.txt`.
//!
//! A group is `s-0`, of the service `s` in the namespace `default`.
//!
//! | command | does |
//! |---|---|
//! | `host a devices=2 zone=z rack=r wire=1 memory=BYTES address=... label=value` | a host comes, or is another |
//! | `cut a`, `join a`, `restart a` | it loses its lease, has it again, comes back as another process |
//! | `probed a yes` | whether a host without a lease answers |
//! | `cordon a`, `cordon a drain=30`, `uncordon a` | nothing new on it; nothing at all; as before |
//! | `service s replicas=2 tp=1 pp=1 model=m seqs=N unavailable=1 surge=0 partition=0 ...` | declares; what is not said stays. See [`Script::service`] |
//! | `invalid s WORDS`, `undeclare s` | its declaration makes no sense; is gone |
//! | `apply KIND NAME JSON`, `delete KIND NAME` | an object is stored, with this `spec`; is deleted |
//! | `dry KIND NAME JSON` | what would become of all services if it were stored |
//! | `model m weights=BYTES ...` | what the controller finds when it asks for the model |
//! | `load s-0 waiting=3 running=2 used=50`, `quiet s-0` | an endpoint tells its load, of 100 blocks; or no longer |
//! | `held s 3` | requests wait at a gateway |
//! | `followed` | whose load is followed |
//! | `silent`, `known m weights=BYTES ...` | it is not told when it asks; is told later |
//! | `ready s-0 s-1`, `ready` | all members serve; of all groups |
//! | `exit s-0 member=1 WORDS` | a member ends, and says this |
//! | `wait 5` | seconds pass |
//! | `gateway HOST:PORT` | a gateway comes |
//! | `elect`, `wipe` | another controller takes office; the store loses everything as well |
//! | `forget s-0` | somebody deletes a group's record |
//! | `groups`, `conditions s`, `events`, `revisions s` | how things are |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use serde_json::json;
use troupe_runtime::{
    discovery::{
        Entry,
        directory::{
            ConditionStatus, GatewayRecord, GroupRecord, MemberPer, MemberState, NodeRecord,
        },
        keys::Keys,
    },
    id::{EndpointId, GroupId, NodeId},
    spec::{
        AppliedConfig, EngineFlags, Kind,
        policy::{GroupPolicy, RestartPolicy, StartupPolicy},
        quantity::IntOrPercent,
        service::{Scaling, ScalingRules},
    },
    wire::status::Load,
};
use uuid::Uuid;

use super::sim::Sim;
use crate::{
    controller::{
        declared::Declarations,
        desired::{Desired, ServiceName, launch},
        forecast::Forecast,
        memory::ModelFacts,
        plan::{ControllerEffect, ControllerEvent, Timing},
        service::Problem,
        wishes::Wishes,
    },
    scripts::{Words, play_all},
};

struct Script {
    sim: Sim,
    told: BTreeSet<(u32, u32)>,
    declarations: Declarations,
    /// What was applied, under its keys.
    documents: BTreeMap<String, Vec<u8>>,
    generation: u64,
}

#[test]
fn the_planner_does_what_its_scripts_say() {
    play_all("src/controller/scripts", Script::new, Script::run);
}

impl Script {
    fn new() -> Self {
        let timing = Timing { lease: Duration::from_secs(3), settle: Duration::ZERO };
        let mut declarations = Declarations::default();
        declarations.complete();
        Self {
            sim: Sim::new(timing),
            told: BTreeSet::new(),
            declarations,
            documents: BTreeMap::new(),
            generation: 0,
        }
    }

    fn run(&mut self, line: &str) -> String {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let command = words.remove(0);
        let words = Words(words);
        let first = words.0.first().copied().unwrap_or_default();
        let sim = &mut self.sim;
        match command {
            "host" => sim.host(first, |record| host(record, &words)),
            "cut" => sim.cut(first),
            "join" => sim.join(first),
            "restart" => sim.restart(first),
            "probed" => {
                let node = sim.hosts[first].record.id;
                let reachable = words.0[1] == "yes";
                sim.feed(ControllerEvent::HostProbed { node, reachable });
            }
            "cordon" => sim.cordon(first, words.number("drain")),
            "uncordon" => sim.uncordon(first),
            "service" => self.service(first, &words),
            "invalid" => {
                let message = words.0[1..].join(" ");
                let problem = Problem { generation: 9, reason: "InvalidSpec", message };
                sim.feed(ControllerEvent::Senseless(ServiceName::new("default", first), problem));
            }
            "undeclare" => sim.undeclare(&ServiceName::new("default", first)),
            "apply" => {
                let spec = line.splitn(4, ' ').nth(3).expect("a specification");
                self.apply(first, words.0[1], spec);
            }
            "dry" => {
                let spec = line.splitn(4, ' ').nth(3).expect("a specification");
                return self.dry(first, words.0[1], spec);
            }
            "delete" => {
                let kind = Kind::find(first).expect("a kind");
                let name = ServiceName::new("default", words.0[1]);
                let events = self.declarations.gone(kind, &name);
                self.declared(events);
            }
            "model" => {
                let facts = facts(&words);
                sim.models.insert(first.to_owned(), facts);
            }
            "load" => {
                let endpoint = self.endpoint(first);
                let load = load(&words);
                self.sim.feed(ControllerEvent::LoadTold(endpoint, Box::new(load)));
            }
            "quiet" => {
                let endpoint = self.endpoint(first);
                self.sim.feed(ControllerEvent::LoadLost(endpoint));
            }
            "held" => {
                let name = ServiceName::new("default", first);
                let gateway = NodeId::default();
                match words.0[1].parse().expect("a number") {
                    0 => {
                        sim.store.demand.remove(&name);
                        sim.feed(ControllerEvent::DemandGone(name, gateway));
                    }
                    held => {
                        sim.store.demand.insert(name.clone(), held);
                        sim.feed(ControllerEvent::DemandPut(name, gateway, held));
                    }
                }
            }
            "followed" => {
                let name = |endpoint: &EndpointId| {
                    let GroupId { service, index, .. } = &endpoint.group;
                    format!("{service}-{index} epoch {}", endpoint.epoch.number)
                };
                return sim.followed.keys().map(name).collect::<Vec<_>>().join("\n");
            }
            "silent" => sim.silent = true,
            "known" => {
                let facts = Some(facts(&words));
                sim.feed(ControllerEvent::ModelKnown(first.to_owned(), facts));
            }
            "ready" => self.ready(&words),
            "exit" => {
                let group = group(first);
                let member = words.number("member").unwrap_or(0);
                let cause: Vec<_> = words.names().skip(1).collect();
                sim.member(&group, member, &MemberState::Exited(cause.join(" ")));
            }
            "wait" => {
                let seconds: f64 = first.parse().expect("seconds");
                sim.pass(Duration::from_secs_f64(seconds));
            }
            "gateway" => {
                let id = NodeId(Uuid::from_u128(77));
                let record = GatewayRecord { id, address: first.into(), version: "0".into() };
                sim.store.gateways.push(record.clone());
                sim.feed(ControllerEvent::GatewayPut(record));
            }
            "elect" => sim.fail_over(),
            "wipe" => sim.wipe(),
            "forget" => {
                let group = group(first);
                sim.store.groups.remove(&group);
                sim.feed(ControllerEvent::GroupGone(group));
            }
            "groups" => return self.groups(),
            "conditions" => return self.conditions(first),
            "events" => return self.events(),
            "revisions" => return self.revisions(first),
            other => panic!("`{other}` is no command"),
        }
        self.done()
    }

    /// `service NAME key=value ...`: what is not said is as it was.
    fn service(&mut self, name: &str, words: &Words<'_>) {
        let name = ServiceName::new("default", name);
        let mut desired = self.sim.store.services.get(&name).cloned().unwrap_or_else(|| Desired {
            name: name.clone(),
            generation: 0,
            replicas: 1,
            scaling: None,
            launch: launch("m".into(), "m".into(), EngineFlags::default()),
            wishes: Wishes::default(),
            policy: GroupPolicy::default(),
            grace: None,
            cause: None,
            document: json!(null),
            applied: vec![],
        });
        desired.generation += 1;
        let (launch, wishes, policy) =
            (&mut desired.launch, &mut desired.wishes, &mut desired.policy);
        for (key, value) in words.pairs() {
            let number = || value.parse::<u32>().unwrap_or_else(|_| panic!("{key}={value}"));
            match key {
                "replicas" => desired.replicas = number(),
                "tp" => launch.tensor_parallel = number(),
                "pp" => launch.pipeline_parallel = number(),
                "model" => launch.model_uri = value.into(),
                "seqs" => launch.flags.max_num_seqs = Some(number()),
                "len" => launch.flags.max_model_len = Some(number()),
                "per" => {
                    launch.member_per = match value {
                        "host" => MemberPer::Host,
                        "stage" => MemberPer::Stage,
                        _ => MemberPer::Rank,
                    }
                }
                "members" => wishes.members = Some(number()),
                "across" => wishes.tensor_across_hosts = value == "yes",
                "exclusive" => wishes.exclusive_topology = Some(value.into()),
                "on" => drop(wishes.node_selector.insert(label(value).0, label(value).1)),
                "restarted" => wishes.restarted_at = Some(value.into()),
                "unavailable" => policy.rollout.max_unavailable = share(value),
                "surge" => policy.rollout.max_surge = share(value),
                "partition" => policy.rollout.partition = number(),
                "paused" => policy.paused = value == "yes",
                "restarts" => policy.max_restarts = Some(number()),
                "policy" => {
                    policy.restart = match value {
                        "None" => RestartPolicy::None,
                        "AfterStart" => RestartPolicy::RecreateGroupAfterStart,
                        _ => RestartPolicy::RecreateGroupOnPodRestart,
                    }
                }
                "startup" => policy.startup = StartupPolicy::LeaderReady,
                "min" => scaling(&mut desired.scaling).min_replicas = number(),
                "max" => scaling(&mut desired.scaling).max_replicas = number(),
                "cooldown" => {
                    scaling(&mut desired.scaling).cooldown = Duration::from_secs(number().into());
                }
                "grace" => desired.grace = Some(number()),
                "cause" => desired.cause = Some(value.into()),
                other => panic!("`{other}` is nothing of a service"),
            }
        }
        desired.document = json!({"spec": {"generation": desired.generation}});
        self.sim.declare(desired);
    }

    /// An object is stored.
    fn apply(&mut self, kind: &str, name: &str, spec: &str) {
        let (kind, name, object) = self.object(kind, name, spec);
        let (events, wrong) = self.declarations.put(kind, &name, &object.value);
        self.documents.insert(object.key, object.value);
        assert_eq!(wrong, None);
        self.declared(events);
    }

    fn object(&mut self, kind: &str, name: &str, spec: &str) -> (Kind, ServiceName, Entry) {
        let kind = Kind::find(kind).expect("a kind");
        let spec: serde_json::Value = serde_json::from_str(spec).expect("JSON");
        self.generation += 1;
        let document = json!({
            "apiVersion": kind.api_versions().last(),
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": "default", "generation": self.generation},
            "spec": spec,
        });
        let key = Keys::new("test").spec(kind.name(), "default", name);
        let value = document.to_string().into_bytes();
        (kind, ServiceName::new("default", name), Entry { key, value, version: 1 })
    }

    /// What would become of all services with one more object.
    fn dry(&mut self, kind: &str, name: &str, spec: &str) -> String {
        let (_, _, object) = self.object(kind, name, spec);
        let documents = self.documents.iter();
        let documents = documents.map(|(key, value)| (key.clone(), value.clone()));
        let keys = Keys::new("test");
        let entries = documents.chain(self.sim.entries(&keys));
        let entries = entries.map(|(key, value)| Entry { key, value, version: 1 }).collect();
        let models = self.sim.models.clone();
        let facts = |uri: &str| models.get(uri).copied();
        let mut forecast = Forecast::new(keys, self.sim.now, entries, &facts);
        forecast.store(vec![object]);
        forecast.all().into_values().flatten().collect::<Vec<_>>().join("\n")
    }

    fn declared(&mut self, events: Vec<ControllerEvent>) {
        for event in events {
            match event {
                ControllerEvent::Declared(desired) => self.sim.declare(desired),
                ControllerEvent::Undeclared(name) => self.sim.undeclare(&name),
                other => self.sim.feed(other),
            }
        }
    }

    /// The endpoint of a group's newest incarnation; from now on the store has it too.
    fn endpoint(&mut self, name: &str) -> EndpointId {
        let record = self.sim.store.groups.get(&group(name));
        let record = record.unwrap_or_else(|| panic!("there is no group {name} now"));
        let (group, revision, epoch) = (record.group.clone(), record.revision, record.epoch);
        let endpoint = EndpointId { group, revision, epoch, dp: 0 };
        let address = format!("quic://{name}");
        self.sim.store.endpoints.retain(|old, _| old.group != endpoint.group || *old == endpoint);
        if self.sim.store.endpoints.insert(endpoint.clone(), address.clone()).is_none() {
            self.sim.feed(ControllerEvent::EndpointPut(endpoint.clone(), address));
        }
        endpoint
    }

    fn ready(&mut self, words: &Words<'_>) {
        let groups: Vec<GroupId> = match words.0.is_empty() {
            true => self.sim.store.groups.keys().cloned().collect(),
            false => words.0.iter().map(|name| group(name)).collect(),
        };
        for group in groups {
            self.sim.members(&group, &MemberState::Ready);
        }
    }

    /// What the planner wrote since it was last asked.
    fn done(&mut self) -> String {
        let mut text = String::new();
        for effect in std::mem::take(&mut self.sim.done) {
            let _ = match effect {
                ControllerEffect::PutGroup(record) => writeln!(text, "{}", self.planned(&record)),
                ControllerEffect::DeleteGroup(group) => {
                    writeln!(text, "end {}-{}", group.service, group.index)
                }
                ControllerEffect::PutServiceStatus(name, status) => {
                    let (ready, replicas, updated) =
                        (status.ready, status.replicas, status.updated);
                    let revision = status.revision;
                    let mut line = format!("{}: {ready} of {replicas} serve", name.name);
                    if updated != replicas {
                        let _ = write!(line, ", {updated} of revision {revision}");
                    }
                    if !status.message.is_empty() {
                        let _ = write!(line, "; {}", status.message);
                    }
                    writeln!(text, "{line}")
                }
                ControllerEffect::DeleteServiceStatus(name) => {
                    writeln!(text, "{}: nothing is told", name.name)
                }
                ControllerEffect::Probe(node, address) => {
                    let host = self.sim.hosts.values().find(|host| host.record.id == node);
                    let name = host.map_or("?", |host| &host.record.name);
                    writeln!(text, "try {name} at {address}")
                }
                ControllerEffect::PutRevision(..)
                | ControllerEffect::DeleteRevision(..)
                | ControllerEffect::PutEvent(..)
                | ControllerEffect::AskModel(_)
                | ControllerEffect::Follow(_)
                | ControllerEffect::Attend(_)
                | ControllerEffect::Settle => Ok(()),
            };
        }
        // Only the last that was said of a service within one command.
        let mut lines: Vec<&str> = Vec::new();
        for line in text.lines() {
            let about = line.split_once(": ").map(|(about, _)| about.to_owned());
            if let Some(about) = about {
                lines.retain(|other| !other.starts_with(&format!("{about}: ")));
            }
            lines.push(line);
        }
        if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
    }

    fn planned(&self, record: &GroupRecord) -> String {
        let name = |node| {
            let host = self.sim.hosts.values().find(|host| host.record.id == node);
            host.map_or("?".to_owned(), |host| host.record.name.clone())
        };
        let members: Vec<String> = record
            .members
            .iter()
            .map(|member| match member.ranks.len() {
                1 => name(member.node),
                ranks => format!("{}x{ranks}", name(member.node)),
            })
            .collect();
        let GroupId { service, index, .. } = &record.group;
        let (epoch, revision) = (record.epoch.number, record.revision);
        let mut line = format!(
            "plan {service}-{index} epoch {epoch} revision {revision} on {}",
            members.join(" ")
        );
        if let Some(drain) = record.drain {
            let _ = write!(line, ", drains {} s, then {:?}", drain.seconds, drain.then);
        }
        line
    }

    fn groups(&self) -> String {
        let mut text = String::new();
        for (name, status) in &self.sim.store.statuses {
            for group in &status.groups {
                let epoch = group.epoch.map_or("-".into(), |epoch| epoch.number.to_string());
                let places: Vec<String> = group
                    .members
                    .iter()
                    .map(|member| format!("{} {}", member.node_name, member.state))
                    .collect();
                let (index, phase, revision) = (group.index, group.phase, group.revision);
                let restarts = match group.restarts {
                    0 => String::new(),
                    failed => format!(", failed {failed} times"),
                };
                let service = &name.name;
                let _ = writeln!(
                    text,
                    "{service}-{index} {phase:?} epoch {epoch} revision {revision}{restarts}: {}",
                    places.join(", ")
                );
            }
        }
        text
    }

    fn conditions(&self, name: &str) -> String {
        let status = &self.sim.store.statuses[&ServiceName::new("default", name)];
        let mut text = String::new();
        if let Some(url) = &status.url {
            let _ = writeln!(text, "url {url}");
        }
        for config in &status.applied_config_refs {
            let AppliedConfig { name, namespace, source } = config;
            let _ = writeln!(text, "made of {source:?} {namespace}/{name}");
        }
        for condition in &status.conditions {
            let holds = match condition.status {
                ConditionStatus::True => "True",
                ConditionStatus::False => "False",
                ConditionStatus::Unknown => "Unknown",
            };
            let (kind, reason, message) = (&condition.kind, &condition.reason, &condition.message);
            let since = condition.last_transition - 1_000_000;
            let _ = writeln!(text, "{kind} {holds} {reason} since {since}: {message}");
        }
        text
    }

    /// Events that are new or were counted on.
    fn events(&mut self) -> String {
        let mut text = String::new();
        for (slot, event) in &self.sim.store.events {
            if !self.told.insert((*slot, event.count)) {
                continue;
            }
            let (kind, reason, count) = (event.kind, &event.reason, event.count);
            let times = if count > 1 { format!(" x{count}") } else { String::new() };
            let (object, message) = (&event.object, &event.message);
            let name = &object.name;
            let _ = writeln!(text, "{kind:?} {reason}{times} {} {name}: {message}", object.kind);
        }
        text
    }

    fn revisions(&self, name: &str) -> String {
        let mut text = String::new();
        let revisions = self.sim.store.revisions.iter();
        for ((_, number), record) in revisions.filter(|((of, _), _)| of.name == name) {
            let cause = record.cause.as_deref().unwrap_or("-");
            let seqs = record.launch.flags.max_num_seqs;
            let seqs = seqs.map_or("-".into(), |seqs| seqs.to_string());
            let _ = writeln!(text, "{number}: seqs {seqs}, cause {cause}");
        }
        text
    }
}

fn host(record: &mut NodeRecord, words: &Words<'_>) {
    for (key, value) in words.pairs() {
        match key {
            "devices" => record.devices = value.parse().expect("a number"),
            "memory" => record.device_memory = value.parse().expect("a number"),
            "wire" => record.wire = value.parse().expect("a number"),
            "address" => record.address = Some(value.into()),
            "zone" => {
                record.labels.insert("topology.kubernetes.io/zone".into(), value.into());
            }
            "rack" => drop(record.labels.insert("troupe.dev/rack".into(), value.into())),
            _ => drop(record.labels.insert(key.into(), value.into())),
        }
    }
}

fn facts(words: &Words<'_>) -> ModelFacts {
    ModelFacts {
        weight_bytes: words.number("weights").unwrap_or(0),
        ends_bytes: 0,
        layers: words.number("layers").unwrap_or(1),
        kv_heads: words.number("heads").unwrap_or(1),
        kv_bytes_per_token: words.number("kv").unwrap_or(0),
        hidden_size: 0,
        intermediate_size: 0,
        vocab_size: 0,
        max_model_len: 1024,
    }
}

/// Of a service that scales; the defaults are those of specifications.
fn scaling(of: &mut Option<Scaling>) -> &mut Scaling {
    of.get_or_insert_with(|| Scaling {
        min_replicas: 1,
        max_replicas: 1,
        idle_replicas: None,
        cooldown: Duration::from_secs(300),
        targets: Scaling::DEFAULT_TARGETS.to_vec(),
        scale_up: ScalingRules::up(),
        scale_down: ScalingRules::down(),
        cost: None,
    })
}

fn load(words: &Words<'_>) -> Load {
    Load {
        running: words.number("running").unwrap_or(0),
        waiting: words.number("waiting").unwrap_or(0),
        blocks_used: words.number("used").unwrap_or(0),
        blocks_total: 100,
        steps: words.number("steps").unwrap_or(0),
        ..Load::default()
    }
}

fn group(name: &str) -> GroupId {
    let (service, index) = name.rsplit_once('-').expect("a group as s-0");
    ServiceName::new("default", service).group(index.parse().expect("an index"))
}

fn share(text: &str) -> IntOrPercent {
    match text.strip_suffix('%') {
        Some(percent) => IntOrPercent::Percent(percent.parse().expect("a number")),
        None => IntOrPercent::Count(text.parse().expect("a number")),
    }
}

fn label(text: &str) -> (String, String) {
    let (key, value) = text.split_once(':').expect("a label as key:value");
    (key.into(), value.into())
}
