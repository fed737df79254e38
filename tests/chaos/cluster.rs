//! The cluster that faults are played in: hosts of their own (network namespaces), a real etcd of
//! three members, two controllers, two gateways, and nodes whose members are processes.
//!
//! ```text
//!  service   divided                         hosts with a device each
//!  x         two groups of two stages        a b c d, and e to spare
//!  p         prefill apart from decode       f g
//! ```
//! Service `x` is what faults hit; what a fault leaves of it is one group, and a host to form the
//! other one on. Service `p` has a prefill peer to lose.

use std::{fs, net::SocketAddr};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    disk::Disk,
    etcd_process::{EtcdProcess, copy_folder},
    golden, http,
    network::{Host, Network},
    operator::troupe_in,
    picker,
    process::{Troupe, kill, until},
};

/// Hosts with a device, of which the last two have the service `p`.
pub(crate) const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
const OF_X: usize = 5;
pub(crate) const CONTROLS: [&str; 2] = ["control-1", "control-2"];
pub(crate) const GATEWAYS: [&str; 2] = ["gateway-1", "gateway-2"];
/// Two of `x`, and both sides of `p`.
const GROUPS: usize = 4;
/// The port of every gateway: each has a host of its own.
const PORT: u16 = 8000;

/// A group as a control host tells it.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) epoch: String,
    pub(crate) ready: bool,
    /// The indices of the hosts that its members are on.
    pub(crate) hosts: Vec<usize>,
}

/// In this order: what is started first ends last.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Troupe>,
    pub(crate) gateways: Vec<Troupe>,
    pub(crate) controls: Vec<Troupe>,
    pub(crate) hosts: Vec<Host>,
    control_hosts: Vec<Host>,
    gateway_hosts: Vec<Host>,
    pub(crate) etcd: Vec<EtcdProcess>,
    pub(crate) network: Network,
    /// The data directories of the nodes of `x`: what is mounted there has to go before the folder.
    _disks: Vec<Disk>,
    folder: TempDir,
}

impl Cluster {
    /// All of it, serving; nothing where there can be no hosts, after saying why.
    pub(crate) fn start() -> Option<Self> {
        let mut network = Network::new()?;
        let etcd_hosts = ["etcd-0", "etcd-1", "etcd-2"].map(|name| network.host(name));
        let at = etcd_hosts.map(|host| (host.words(), host.address()));
        let etcd = EtcdProcess::start_cluster_on(&at);
        let folder = tempfile::tempdir().expect("a folder");
        let disks = NODES[..OF_X].iter().map(|name| Disk::mount(folder.path().join(name)));
        let disks = disks.collect();
        let control_hosts: Vec<_> = CONTROLS.map(|name| network.host(name)).into();
        let gateway_hosts: Vec<_> = GATEWAYS.map(|name| network.host(name)).into();
        let hosts: Vec<_> = NODES.map(|name| network.host(name)).into();
        let (nodes, gateways, controls) = (Vec::new(), Vec::new(), Vec::new());
        let mut cluster = Self {
            nodes,
            gateways,
            controls,
            hosts,
            control_hosts,
            gateway_hosts,
            etcd,
            network,
            _disks: disks,
            folder,
        };
        for index in 0..CONTROLS.len() {
            if index > 0 {
                // The one CA of all.
                let [first, this] = [0, index].map(|at| cluster.folder.path().join(CONTROLS[at]));
                copy_folder(&first.join("ca"), &this.join("ca"));
            }
            let mut control = cluster.control(index);
            control.until_said("operators: ");
            cluster.controls.push(control);
        }
        cluster.gateways = (0..GATEWAYS.len()).map(|index| cluster.gateway(index)).collect();
        cluster.nodes = (0..NODES.len()).map(|index| cluster.node(index)).collect();
        for service in [two_stages(), prefill_apart()] {
            let file = cluster.path("service.json");
            fs::write(&file, service.to_string()).expect("it can be written");
            let done = cluster.says(&format!("apply -f {file}"));
            done.expect("the control host takes it");
        }
        until("both services serve", || cluster.is_whole());
        Some(cluster)
    }

    /// A control host's process.
    pub(crate) fn control(&self, index: usize) -> Troupe {
        let (name, host) = (CONTROLS[index], &self.control_hosts[index]);
        let (data, urls, here) = (self.path(name), self.urls(), host.address().to_string());
        let mut args = vec!["up", "--roles", "controller", "--etcd", &urls, "--listen", &here];
        args.extend(["--data-dir", &data, "--log-format", "json"]);
        host.start(&args)
    }

    /// A gateway's process.
    pub(crate) fn gateway(&self, index: usize) -> Troupe {
        let (name, host) = (GATEWAYS[index], &self.gateway_hosts[index]);
        let (data, ca, urls) = (self.path(name), self.ca(), self.urls());
        let (here, port) = (host.address().to_string(), PORT.to_string());
        let mut args = vec!["gateway", "--etcd", &urls, "--data-dir", &data, "--ca", &ca];
        args.extend(["--listen", &here, "--port", &port, "--log-format", "json"]);
        host.start(&args)
    }

    /// A node's process.
    pub(crate) fn node(&self, index: usize) -> Troupe {
        let (name, host) = (NODES[index], &self.hosts[index]);
        let (data, ca, urls) = (self.path(name), self.ca(), self.urls());
        let (here, pool) = (host.address().to_string(), if index < OF_X { "x" } else { "p" });
        let label = format!("pool={pool}");
        let mut args = vec!["node", "--etcd", &urls, "--name", name, "--data-dir", &data];
        args.extend(["--ca", &ca, "--listen", &here, "--devices", "1", "--label", &label]);
        args.extend(["--log-format", "json"]);
        host.start(&args)
    }

    /// Where each gateway answers.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.gateway_hosts.iter().map(|host| SocketAddr::new(host.address(), PORT)).collect()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn ca(&self) -> String {
        self.path(&format!("{}/ca", CONTROLS[0]))
    }

    fn urls(&self) -> String {
        self.etcd.iter().map(EtcdProcess::endpoint).collect::<Vec<_>>().join(",")
    }

    /// What the first control host says; nothing if it cannot.
    fn says(&self, line: &str) -> Option<String> {
        let context = self.path(&format!("{}/operator", CONTROLS[0]));
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = troupe_in(&context, &words);
        (said.code == Some(0)).then_some(said.out)
    }

    /// All groups; none while the control host cannot say.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let said = self.says("get groups -o json").unwrap_or_default();
        let list = serde_json::from_str::<Value>(&said).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let host = |member: &Value| NODES.iter().position(|name| member["node"] == *name);
        let group = |object: &Value| {
            let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
            Group {
                name: text(&object["metadata"]["name"]),
                epoch: text(&object["spec"]["epoch"]),
                ready: !members.is_empty() && object["status"]["ready"] == members.len(),
                hosts: members.iter().filter_map(host).collect(),
            }
        };
        list["items"].as_array().into_iter().flatten().map(group).collect()
    }

    /// A group, which is there.
    pub(crate) fn group(&self, name: &str) -> Group {
        let found = self.groups().into_iter().find(|group| group.name == name);
        found.unwrap_or_else(|| panic!("there is no group {name}"))
    }

    /// The group that computes prompts for `p`.
    pub(crate) fn prefill_group(&self) -> Group {
        let is_it = |group: &Group| group.name.contains("prefill");
        self.groups().into_iter().find(is_it).expect("the service has one")
    }

    /// The process of a group's member, which is the only one of its host.
    pub(crate) fn process(&self, group: &Group, member: usize) -> u32 {
        *self.nodes[group.hosts[member]].members().first().expect("its host runs it")
    }

    /// Which controller is in office: who took it last.
    pub(crate) fn in_office(&self) -> usize {
        let taken = |control: &Troupe| {
            let said = control.said("this controller takes office");
            said.last().map(|line| line["timestamp"].to_string())
        };
        let all = self.controls.iter().map(taken).enumerate();
        let last = all.max_by(|one, other| one.1.cmp(&other.1));
        last.filter(|(_, taken)| taken.is_some()).expect("one of them holds it").0
    }

    /// Whether everything is as declared: every host is there, every group serves, and every
    /// gateway knows them all.
    pub(crate) fn is_whole(&self) -> bool {
        let groups = self.groups();
        let hosts = self.says("get nodes").unwrap_or_default();
        let ready = hosts.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready"));
        groups.len() == GROUPS
            && groups.iter().all(|group| group.ready)
            && ready.count() == NODES.len()
            && self.addresses().into_iter().all(|address| endpoints(address) == GROUPS)
    }
}

/// How many endpoints a gateway has.
fn endpoints(gateway: SocketAddr) -> usize {
    let told = http::get(gateway, "/metrics").map(|answer| answer.text).unwrap_or_default();
    told.lines().filter(|line| line.starts_with("vllm:num_requests_running{")).count()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is to fall over the others' ends one by one; frozen ones go too.
        let all = self.nodes.iter().chain(&self.gateways).chain(&self.controls);
        all.map(Troupe::id).for_each(kill);
    }
}

fn service(name: &str, spec: Value) -> Value {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let mut spec = spec;
    spec["model"] = json!({"uri": format!("file://{}", model.display()), "name": name});
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        // Whoever kills so often does not mean that the service is broken.
        "metadata": {"name": name, "annotations": {
            "troupe.dev/max-group-restarts": "unlimited",
            "troupe.dev/restart-backoff-max": "1s",
        }},
        "spec": spec,
    })
}

fn template(pool: &str, stage_ms: u32) -> Value {
    // Slow enough that streams are always under way, and no slower.
    let args = [format!("--stage-time-min-ms={stage_ms}"), "--max-model-len=256".into()];
    json!({"nodeSelector": {"pool": pool}, "containers": [{"name": "main", "args": args}]})
}

fn two_stages() -> Value {
    let spec = json!({
        "replicas": 2,
        "parallelism": {"pipeline": 2},
        "template": template("x", 6),
        // So a group's stages are on hosts of their own.
        "worker": template("x", 6),
    });
    service("x", spec)
}

fn prefill_apart() -> Value {
    let spec = json!({
        "replicas": 1,
        "template": template("p", 6),
        "prefill": {"replicas": 1, "template": template("p", 6)},
        "router": {"scheduler": {"config": {"inline": picker::always_apart()}}},
    });
    service("p", spec)
}
