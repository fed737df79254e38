//! What a cluster is for: six hosts, two services of two groups of two hosts each, clients that ask
//! without a pause, and things that go wrong or are changed meanwhile. No request may fail, and
//! every one has to get the tokens that it would have got anyway.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    etcd_process::{EtcdProcess, copy_folder},
    golden,
    hosts::{etcd, urls},
    http,
    network::{Host, Network},
    operator::{Said, troupe_in},
    process::{Troupe, is_running, tokens, until},
    question::{Question, streamed},
};

#[test]
fn a_host_and_the_controller_are_lost_under_load() {
    let Some(mut cluster) = Cluster::start() else { return };
    let load = cluster.load();
    let before = cluster.groups();

    let lost = cluster.host_of("x-0");
    let members = cluster.nodes[lost].members();
    cluster.nodes[lost].kill();
    until("its members are gone", || !members.iter().copied().any(is_running));
    until("its groups are back, on other hosts", || cluster.is_whole_without(lost));
    let after = cluster.groups();
    for (before, after) in before.iter().zip(&after) {
        let was_there = before.hosts.iter().any(|host| *host == NODES[lost]);
        assert_eq!(before.epoch != after.epoch, was_there, "{before:?} {after:?}");
    }

    // One that does not move loses the office, and what it does when it wakes counts for nothing.
    let (frozen, other) = cluster.office();
    cluster.controls[frozen].freeze();
    cluster.controls[other].until_said("this controller takes office");
    cluster.done_by(other, "scale llmisvc y --replicas 1");
    until("a group less", || cluster.groups_by(other).len() == 3);
    cluster.controls[frozen].thaw();
    until("it knows", || {
        let says = |what| !cluster.controls[frozen].said(what).is_empty();
        says("this controller is no longer in office") || says("cannot write to the store")
    });
    assert_eq!(cluster.groups_by(other).len(), 3);

    cluster.controls[other].kill();
    let since = Instant::now();
    until("it is in office again", || {
        cluster.controls[frozen].said("this controller takes office").len() == 2
    });
    eprintln!("another controller is in office after {:?}", since.elapsed());
    // And it acts.
    cluster.done_by(frozen, "scale llmisvc y --replicas 2");
    until("a group more", || cluster.groups_by(frozen).len() == 4);
    eprintln!("and has acted after {:?}", since.elapsed());
    load.end();
}

#[test]
fn a_new_revision_rolls_out_under_load_and_one_that_cannot_start_fails_alone() {
    let Some(cluster) = Cluster::start() else { return };
    let load = cluster.load();
    let (x, y) = (cluster.epochs("x-"), cluster.epochs("y-"));

    cluster.apply("x", &["--max-model-len=96"], json!({}));
    until("all groups of x are of the new revision", || {
        let said = cluster.says_by(0, "rollout status llmisvc x --watch=false");
        said.code == Some(0) && said.out.contains("successfully rolled out")
    });
    assert_eq!(cluster.epochs("y-"), y, "the other service is as it was");
    let renewed = cluster.epochs("x-");
    assert!(renewed.iter().all(|group| !x.contains(group)), "{x:?} {renewed:?}");

    // More positions than there is memory for KV: no member of it can start.
    cluster.apply("broken", &["--kv-cache-memory-bytes=4096"], json!({}));
    until("it is given up, and says why", || {
        let service = cluster.object("broken");
        let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["type"] == "Failed"
                && condition["status"] == "True"
                && message.contains("out of memory")
        })
    });
    assert_eq!((cluster.epochs("x-"), cluster.epochs("y-")), (renewed, y), "others are untouched");
    load.end();
}

#[test]
fn etcd_is_away_under_load_while_a_worker_dies_and_a_gateway_starts() {
    let Some(mut cluster) = Cluster::start() else { return };
    // It has to have known the cluster once.
    let mut second = cluster.second_gateway();
    let knows = cluster.path("gateway-2/endpoints.json");
    until("what it knows is kept", || {
        fs::read_to_string(&knows).is_ok_and(|text| text.contains("\"y\""))
    });
    second.interrupt();
    assert!(second.ended().success());

    let load = cluster.load();
    let began = Instant::now();
    let lost = cluster.host_of("x-0");
    cluster.etcd.iter_mut().for_each(EtcdProcess::kill);
    let member = *cluster.nodes[lost].members().first().expect("a host runs members");
    crate::process::kill(member);
    let mut second = cluster.second_gateway();
    let address =
        SocketAddr::new(cluster.gateway_host.address(), second.address("gateway on ").port());
    until("it has found the endpoints that it knew", || {
        let models = http::get(address, "/v1/models").map(|answer| answer.text);
        models.is_ok_and(|text| {
            ["x", "y"].iter().all(|id| text.contains(&format!("\"id\":\"{id}\"")))
        })
    });
    let more = cluster.load_at(address);
    let (answered, more_answered) = (load.answered(), more.answered());
    until("requests go on", || {
        load.answered() > answered + 50 && more.answered() > more_answered + 50
    });
    pause_until(began + outage());
    cluster.restart_etcd();
    until("every group is back", || cluster.is_whole());
    eprintln!("{} and {} requests in {:?}", load.answered(), more.answered(), began.elapsed());
    more.end();
    load.end();
}

#[test]
fn an_etcd_that_lost_everything_changes_nothing_under_load() {
    let Some(mut cluster) = Cluster::start() else { return };
    let load = cluster.load();
    // A host that is off while something else is declared than it has heard of.
    let off = cluster.host_of("y-1");
    cluster.nodes[off].kill();
    until("its groups are back, on other hosts", || cluster.is_whole_without(off));
    cluster.apply("y", &[], json!({"kubernetes.io/change-cause": "said later"}));
    let (groups, declared) = (cluster.groups(), cluster.declared());

    cluster.etcd.iter_mut().for_each(EtcdProcess::kill);
    cluster.etcd.iter().for_each(EtcdProcess::wipe);
    cluster.restart_etcd();
    until("everything is as it was, and nothing was formed anew", || {
        cluster.declared() == declared && cluster.groups() == groups
    });
    cluster.done_by(0, "scale llmisvc x --replicas 1");
    until("a group less", || cluster.groups().len() == 3);
    let declared = cluster.declared();
    cluster.nodes[off] = cluster.node(off);
    until("the host that was off is back", || {
        let hosts = cluster.says_by(0, "get nodes").out;
        hosts.lines().filter(|line| line.contains("Ready")).count() == NODES.len()
    });
    assert_eq!(cluster.declared(), declared, "what it knew is older, and changes nothing");
    let kept = cluster.groups();
    assert!(kept.iter().all(|group| groups.contains(group)), "{kept:?} of {groups:?}");
    load.end();
}

/// A group as the control host tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    epoch: String,
    ready: bool,
    hosts: Vec<String>,
}

/// In this order: what is started first ends last.
struct Cluster {
    nodes: Vec<Troupe>,
    _gateway: Troupe,
    gateway: SocketAddr,
    controls: Vec<Troupe>,
    hosts: Vec<Host>,
    gateway_host: Host,
    etcd: Vec<EtcdProcess>,
    _network: Network,
    folder: TempDir,
    question: Question,
}

impl Cluster {
    /// Two control hosts, a gateway, and six hosts of two devices, of which eight are taken.
    fn start() -> Option<Self> {
        let mut network = Network::new()?;
        let etcd = etcd(&mut network);
        let urls = urls(&etcd);
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut controls = Vec::new();
        for name in CONTROLS {
            let host = network.host(name);
            let (data, here) = (path(name), host.address().to_string());
            if name != CONTROLS[0] {
                // The one CA of all.
                let ca = folder.path().join(CONTROLS[0]).join("ca");
                copy_folder(&ca, &folder.path().join(name).join("ca"));
            }
            let mut args = vec!["up", "--roles", "controller", "--etcd", &urls, "--listen", &here];
            args.extend(["--data-dir", &data, "--log-format", "json"]);
            let mut control = host.start(&args);
            control.until_said("operators: ");
            controls.push(control);
        }
        let gateway_host = network.host("gateway");
        let hosts: Vec<_> = NODES.map(|name| network.host(name)).into();
        let mut gateway = start_gateway(&gateway_host, &urls, &folder, "gateway-1");
        let port = gateway.address("gateway on ").port();
        let address = SocketAddr::new(gateway_host.address(), port);
        let mut cluster = Self {
            nodes: Vec::new(),
            _gateway: gateway,
            gateway: address,
            controls,
            hosts,
            gateway_host,
            etcd,
            _network: network,
            folder,
            question: Question::golden(),
        };
        cluster.nodes = (0..NODES.len()).map(|index| cluster.node(index)).collect();
        for service in ["x", "y"] {
            cluster.apply(service, &[], json!({}));
        }
        until("both services serve", || cluster.is_whole());
        Some(cluster)
    }

    /// All members, with what data they have; none answers before there are two.
    fn restart_etcd(&mut self) {
        let (last, others) = self.etcd.split_last_mut().expect("three of them");
        others.iter_mut().for_each(EtcdProcess::launch);
        last.restart();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn node(&self, index: usize) -> Troupe {
        let (name, host) = (NODES[index], &self.hosts[index]);
        let (data, ca) = (self.path(name), self.path(&format!("{}/ca", CONTROLS[0])));
        let (urls, here) = (urls(&self.etcd), host.address().to_string());
        let mut args = vec!["node", "--etcd", &urls, "--name", name, "--data-dir", &data];
        args.extend(["--ca", &ca, "--listen", &here, "--devices", "2", "--log-format", "json"]);
        host.start(&args)
    }

    fn second_gateway(&self) -> Troupe {
        start_gateway(&self.gateway_host, &urls(&self.etcd), &self.folder, "gateway-2")
    }

    /// Declares a service of two groups of two stages, whose rollout adds one before it takes one.
    fn apply(&self, name: &str, flags: &[&str], annotations: Value) {
        let model = golden::model("tiny-qwen2").expect("both sets have it");
        let mut annotations = annotations;
        annotations["troupe.dev/max-group-restarts"] = json!("2");
        let mut args = vec!["--stage-time-min-ms=2"];
        args.extend(flags);
        let service = json!({
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "model": {"uri": format!("file://{}", model.display()), "name": name},
                "replicas": 2,
                "parallelism": {"pipeline": 2},
                "rolloutStrategy": {"maxSurge": 1, "maxUnavailable": 0},
                "template": {"containers": [{"name": "main", "args": args}]},
                // So a group's stages are on hosts of their own.
                "worker": {"containers": [{"name": "main"}]},
            },
        });
        let file = self.path("service.json");
        fs::write(&file, service.to_string()).expect("it can be written");
        self.done_by(0, &format!("apply -f {file}"));
    }

    /// What a control host answers to a command.
    fn says_by(&self, control: usize, line: &str) -> Said {
        let context = self.path(&format!("{}/operator", CONTROLS[control]));
        let words: Vec<&str> = line.split_whitespace().collect();
        troupe_in(&context, &words)
    }

    fn done_by(&self, control: usize, line: &str) -> String {
        let said = self.says_by(control, line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        said.out
    }

    /// Objects of a kind; none while the control host cannot say.
    fn objects(&self, control: usize, kind: &str) -> Vec<Value> {
        let said = self.says_by(control, &format!("get {kind} -o json"));
        let list = serde_json::from_str::<Value>(&said.out).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    fn object(&self, service: &str) -> Value {
        let all = self.objects(0, "llmisvc");
        all.into_iter().find(|found| found["metadata"]["name"] == service).unwrap_or_default()
    }

    /// What is declared, without what changes by itself.
    fn declared(&self) -> Vec<Value> {
        let all = self.objects(0, "llmisvc").into_iter();
        all.map(|object| {
            let metadata = &object["metadata"];
            json!([metadata["name"], metadata["annotations"], object["spec"]])
        })
        .collect()
    }

    fn groups(&self) -> Vec<Group> {
        self.groups_by(0)
    }

    fn groups_by(&self, control: usize) -> Vec<Group> {
        let group = |object: Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
            Group {
                name: text(&object["metadata"]["name"]),
                epoch: text(&object["spec"]["epoch"]),
                ready: !members.is_empty() && object["status"]["ready"] == members.len(),
                hosts: members.iter().map(|member| text(&member["node"])).collect(),
            }
        };
        self.objects(control, "groups").into_iter().map(group).collect()
    }

    /// Whether all four groups serve.
    fn is_whole(&self) -> bool {
        let groups = self.groups();
        groups.len() == 4 && groups.iter().all(|group| group.ready)
    }

    /// The same, none of them on a host.
    fn is_whole_without(&self, host: usize) -> bool {
        let name = NODES[host];
        self.is_whole()
            && self.groups().iter().all(|group| !group.hosts.iter().any(|at| at == name))
    }

    /// The incarnations of a service's groups.
    fn epochs(&self, service: &str) -> Vec<(String, String)> {
        let groups = self.groups().into_iter().filter(|group| group.name.starts_with(service));
        groups.map(|group| (group.name, group.epoch)).collect()
    }

    /// The index of the host that runs the worker of a group.
    fn host_of(&self, group: &str) -> usize {
        let found = self.groups().into_iter().find(|found| found.name == group);
        let host = found.and_then(|group| group.hosts.last().cloned()).expect("it runs somewhere");
        NODES.iter().position(|name| *name == host).expect("one of ours")
    }

    /// Which controller is in office, and which is not.
    fn office(&self) -> (usize, usize) {
        let holds = |control: &Troupe| !control.said("this controller takes office").is_empty();
        let holder = self.controls.iter().position(holds).expect("one holds it");
        (holder, 1 - holder)
    }

    fn load(&self) -> Load {
        self.load_at(self.gateway)
    }

    /// Two clients for each service, streaming and not.
    fn load_at(&self, address: SocketAddr) -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients =
            [("x", true), ("x", false), ("y", true), ("y", false)].map(|(model, stream)| {
                let mut body = self.question.body();
                (body["model"], body["stream"]) = (json!(model), json!(stream));
                let (golden, end, answered) =
                    (self.question.golden.clone(), end.clone(), answered.clone());
                std::thread::spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        assert_eq!(ask(address, &body), golden, "{model}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
        Load { end, answered, clients: clients.into() }
    }
}

/// Clients that ask one request after another; each has to be answered, and rightly.
struct Load {
    end: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets each finish what it asked, and holds that nothing failed.
    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request failed");
        }
        assert!(self.answered.load(Ordering::Relaxed) > 0, "they asked something");
    }
}

fn ask(address: SocketAddr, body: &Value) -> Vec<u32> {
    if body["stream"] == false {
        let answer = http::post(address, "/v1/completions", body).expect("an answer");
        return tokens(&answer.ok()["choices"][0]);
    }
    streamed(http::stream(address, "/v1/completions", body).expect("an answer"), || {})
}

fn start_gateway(host: &Host, urls: &str, folder: &TempDir, name: &str) -> Troupe {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (data, ca) = (path(name), path(&format!("{}/ca", CONTROLS[0])));
    let here = host.address().to_string();
    let mut args = vec!["gateway", "--etcd", urls, "--data-dir", &data, "--ca", &ca];
    args.extend(["--listen", &here, "--port", "0", "--log-format", "json"]);
    host.start(&args)
}

/// How long etcd is away at least: as long as a person wants to see it, and in the tests only until
/// requests were answered without it.
#[expect(clippy::disallowed_methods, reason = "says how the test is to be run, like a flag")]
fn outage() -> Duration {
    let seconds = std::env::var("TROUPE_TEST_OUTAGE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(0, |text| text.parse().expect("a number of seconds")))
}

#[expect(clippy::disallowed_methods, reason = "an outage of a length that a person asked for")]
fn pause_until(then: Instant) {
    std::thread::sleep(then.saturating_duration_since(Instant::now()));
}

const CONTROLS: [&str; 2] = ["control-1", "control-2"];
const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
