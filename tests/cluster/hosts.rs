//! A cluster on hosts of its own: three members of etcd, a control host and three nodes, each with
//! its own address, so that all they say crosses a network that can be cut.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::{
    etcd_process::EtcdProcess,
    network::{Host, Network},
    operator::{Said, troupe_in},
    process::{Server, Troupe, until},
    question::{Question, two_stages},
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

#[test]
fn an_operator_cuts_a_host_off_and_heals_it() {
    let Some(cluster) = Cluster::start() else { return };
    let (worker, epoch) = (cluster.host_of(1), cluster.epochs());
    let target = format!("node/{}", NAMES[worker]);
    for (words, why) in [
        (&["cut", "--target", &target][..], "--yes"),
        (&["cut", "--yes"], "--target is needed"),
        (&["cut", "--yes", "--target", "node/nobody"], "\"nobody\" not found"),
        (&["cut", "--yes", "--target", &target, "--from", "etcd"], "--etcd URLS"),
        (&["kill", "--yes", "--target", &target, "--from", "etcd"], "go with cut"),
        (&["heal", "--target", &target], "heal takes no --target"),
        (&["heal"], "nothing is cut off on this host"),
    ] {
        let said = cluster.chaos(words);
        assert!(said.code.is_some_and(|code| code > 0), "{words:?}: {said:?}");
        assert!(said.err.contains(why), "{words:?}: {said:?}");
    }
    let pid = cluster.nodes[worker].id();
    let said = cluster.chaos(&["cut", "--dry-run", "--target", &target]);
    assert!(said.out.ends_with(&format!("(dry run): pid {pid}\n")), "{said:?}");
    assert_eq!(cluster.epochs(), epoch, "nothing was done so far");

    // Without its store a host goes on.
    let urls = urls(&cluster.etcd);
    let cut = ["cut", "--yes", "--target", &target];
    let said = cluster.chaos(&[&cut[..], &["--from", "etcd", "--etcd", &urls]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(cluster.ask(), Ok(()));
    let said = cluster.chaos(&["heal"]);
    assert_eq!(said.code, Some(0), "{said:?}");

    let said = cluster.chaos(&cut);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(&format!("{target} is cut off from the other hosts")), "{said:?}");
    until("the incarnation is over", || cluster.epochs() > epoch);
    let said = cluster.chaos(&["heal"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    until("the service serves", || cluster.ask().is_ok());
}

/// In this order: what is started first ends last.
struct Cluster {
    nodes: Vec<Troupe>,
    control: Server,
    /// The nodes'.
    hosts: Vec<Host>,
    etcd: Vec<EtcdProcess>,
    _network: Network,
    folder: TempDir,
    question: Question,
}

impl Cluster {
    fn start() -> Option<Self> {
        let mut network = Network::new()?;
        let etcd = etcd(&mut network);
        let urls = urls(&etcd);

        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("service.yaml"), two_stages().to_string()).expect("it can be written");
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

        let question = Question::golden();
        let _network = network;
        let cluster = Self { nodes, control, hosts, etcd, _network, folder, question };
        until("the service serves", || cluster.ask().is_ok());
        Some(cluster)
    }

    /// Asks for tokens, which are the golden ones, or gives back the status of the refusal.
    fn ask(&self) -> Result<(), u16> {
        self.question.ask(self.control.address)
    }

    /// What an operator's `troupe chaos` says.
    fn chaos(&self, words: &[&str]) -> Said {
        let context = self.folder.path().join("control/operator").display().to_string();
        troupe_in(&context, &[&["chaos"], words].concat())
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

/// Three members of etcd, each on a host of its own.
pub(crate) fn etcd(network: &mut Network) -> Vec<EtcdProcess> {
    let hosts = ["etcd-0", "etcd-1", "etcd-2"].map(|name| network.host(name));
    EtcdProcess::start_cluster_on(&hosts.map(|host| (host.words(), host.address())))
}

/// Where they are, as `--etcd` takes it.
pub(crate) fn urls(etcd: &[EtcdProcess]) -> String {
    etcd.iter().map(EtcdProcess::endpoint).collect::<Vec<_>>().join(",")
}

/// A token for all hosts, asked for from here, which is a host of the network too.
fn token(context: &str) -> String {
    let said = troupe_in(context, &["token", "create", "--uses", "3", "-o", "token"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.trim().to_owned()
}

const NAMES: [&str; 3] = ["a", "b", "c"];
