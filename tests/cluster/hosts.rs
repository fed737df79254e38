//! A cluster on hosts of its own: three members of etcd, a control host and three nodes, each with
//! its own address, so that all they say crosses a network that can be cut.

use std::{net::SocketAddr, process::Command};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    etcd_process::EtcdProcess,
    golden, http,
    network::{Host, Network},
    process::{Server, Troupe, completion, tokens, until},
};

#[test]
fn two_stages_on_two_hosts_give_the_golden_tokens() {
    let Some(cluster) = Cluster::start() else { return };
    let (leader, worker) = (cluster.host_of(0), cluster.host_of(1));
    assert_ne!(leader, worker, "a device each, so a host each");
    assert_eq!(cluster.ask(), Ok(()));
}

#[test]
fn a_host_that_is_cut_off_is_replaced() {
    let Some(cluster) = Cluster::start() else { return };
    let worker = cluster.host_of(1);
    cluster.hosts[worker].disconnect();
    // Until the leader notices, a request waits; then it is refused until the spare has loaded.
    until("the spare host serves", || cluster.ask().is_ok() && cluster.host_of(1) != worker);
    let members = |index: usize| cluster.nodes[index].members().len();
    // Its own member noticed too, and the leader it has left does not take it back.
    until("the lost host's member is gone", || members(worker) == 0);
    cluster.hosts[worker].reconnect();
    assert_eq!(cluster.ask(), Ok(()));
}

#[test]
fn two_members_that_do_not_reach_each_other_end_together() {
    let Some(cluster) = Cluster::start() else { return };
    let (leader, worker) = (cluster.host_of(0), cluster.host_of(1));
    let epoch = cluster.epochs();
    // Both still reach etcd, the gateway and the controller.
    cluster.hosts[leader].cut_off(&cluster.hosts[worker]);
    until("the incarnation is over", || cluster.epochs() > epoch);
    cluster.hosts[leader].heal();
    until("the service serves again", || cluster.ask().is_ok());
}

/// In this order: what is started first ends last.
struct Cluster {
    nodes: Vec<Troupe>,
    control: Server,
    /// The nodes'.
    hosts: Vec<Host>,
    _etcd: Vec<EtcdProcess>,
    _network: Network,
    _folder: TempDir,
    prompt: Vec<u32>,
    golden: Vec<u32>,
}

impl Cluster {
    fn start() -> Option<Self> {
        let mut network = Network::new()?;
        let etcd: Vec<_> = ["etcd-0", "etcd-1", "etcd-2"]
            .map(|name| network.host(name))
            .map(|host| (host.words(), host.address()))
            .into();
        let etcd = EtcdProcess::start_cluster_on(&etcd);
        let urls = etcd.iter().map(EtcdProcess::endpoint).collect::<Vec<_>>().join(",");

        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("service.yaml"), service()).expect("it can be written");
        let host = network.host("control");
        let (data, service) = (path("control"), path("service.yaml"));
        let mut args = vec!["up", "--roles", "controller,gateway", "--etcd", &urls, "-f", &service];
        args.extend(["--data-dir", &data, "--log-format", "json"]);
        let mut troupe = host.start(&args);
        let port = troupe.address("gateway on ").port();
        let address = SocketAddr::new(host.address(), port);
        let door = host.address().to_string();
        troupe.until_said(&format!("troupe join {door}:7443 --token "));
        let control = Server { troupe, address };
        let token = token(&path("control/operator"));

        let hosts: Vec<_> = NAMES.map(|name| network.host(name)).into();
        let node = |(name, host): (&str, &Host)| {
            // No address of its own and no store: what a person types.
            let mut args = vec!["join", &door, "--token", &token, "--log-format", "json"];
            let data = path(name);
            args.extend(["--name", name, "--data-dir", &data]);
            host.start(&args)
        };
        let nodes = NAMES.into_iter().zip(&hosts).map(node).collect();

        let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
        let tokens = |name: &str| {
            let tokens = golden["prompts"][1][name].clone();
            serde_json::from_value::<Vec<u32>>(tokens).expect("tokens")
        };
        let (prompt, golden) = (tokens("ids"), tokens("greedy_ids"));
        let (_folder, _etcd, _network) = (folder, etcd, network);
        let cluster = Self { nodes, control, hosts, _etcd, _network, _folder, prompt, golden };
        until("the service serves", || cluster.ask().is_ok());
        Some(cluster)
    }

    /// Asks for tokens, which are the golden ones, or gives back the status of the refusal.
    fn ask(&self) -> Result<(), u16> {
        let body = completion(&self.prompt, self.golden.len());
        let answer = http::post(self.control.address, "/v1/completions", &body);
        let answer = answer.expect("the gateway answers whatever happens behind it");
        if answer.status != 200 {
            return Err(answer.status);
        }
        assert_eq!(tokens(&answer.ok()["choices"][0]), self.golden);
        Ok(())
    }

    /// The index of the host that started this member last.
    fn host_of(&self, member: u64) -> usize {
        let started = self.nodes.iter().enumerate().flat_map(|(index, node)| {
            let started = node.said("start member").into_iter();
            started.map(move |line| (line["timestamp"].to_string(), index, line))
        });
        let of_member = started.filter(|(.., line)| line["fields"]["member"] == member);
        of_member.max_by(|a, b| a.0.cmp(&b.0)).expect("a node started it").1
    }

    /// How many incarnations were begun.
    fn epochs(&self) -> usize {
        let leaders = |node: &Troupe| {
            let started = node.said("start member").into_iter();
            started.filter(|line| line["fields"]["member"] == 0).count()
        };
        self.nodes.iter().map(leaders).sum()
    }
}

/// A token for all hosts, asked for from here, which is a host of the network too.
fn token(context: &str) -> String {
    let words = ["token", "create", "--uses", "3", "-o", "token", "--context", context];
    let said = Command::new(env!("CARGO_BIN_EXE_troupe")).args(words).output();
    let said = said.expect("the binary can be started");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("text").trim().to_owned()
}

fn service() -> String {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": "two-stages"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 1,
            "parallelism": {"pipeline": 2},
        },
    })
    .to_string()
}

const NAMES: [&str; 3] = ["a", "b", "c"];
