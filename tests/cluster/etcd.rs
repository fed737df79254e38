//! A cluster over a real etcd: two nodes, two stages, one service; and what happens when any
//! process of it is killed, comes twice, or does not belong.

use std::{fs, sync::mpsc};

use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;
use troupe_runtime::discovery::{
    Entry, Op, Registry, Txn,
    declared::Declared,
    directory::{self, EndpointRecord, GatewayRecord, GroupRecord},
    etcd::{EtcdConfig, EtcdRegistry},
    keys::Keys,
};

use crate::{
    etcd_process::EtcdProcess,
    http,
    process::{self, Server, Troupe, completion, is_running, tokens, until},
    question::{Question, streamed, two_stages},
};

#[test]
fn what_was_asked_goes_on_when_any_member_is_killed() {
    let cluster = Cluster::start();
    let whole = cluster.sampled(false).answer();
    // The leader's end reaches the gateway as a lost connection, a worker's through the leader.
    for which in [LEADER, 1] {
        for stream in [true, false] {
            let asked = cluster.sampled(stream);
            let member = cluster.member(which);
            process::kill(member);
            assert_eq!(asked.answer(), whole, "token for token");
            assert!(!is_running(member));
            cluster.until_it_serves_again();
        }
    }
    assert_eq!(cluster.control.metric("troupe:gateway_resumes_total"), 4.0);
}

#[test]
fn what_was_asked_goes_on_when_any_member_freezes() {
    let cluster = Cluster::start();
    let whole = cluster.sampled(false).answer();
    for which in [LEADER, 1] {
        let asked = cluster.sampled(true);
        let member = cluster.member(which);
        process::freeze(member);
        assert_eq!(asked.answer(), whole, "token for token");
        // Its node does not wait for it to wake up.
        until("it is killed", || !is_running(member));
        cluster.until_it_serves_again();
    }
    assert_eq!(cluster.control.metric("troupe:gateway_resumes_total"), 2.0);
}

#[test]
fn a_node_that_is_killed_takes_its_member_along_and_may_come_back() {
    let mut cluster = Cluster::start();
    let whole = cluster.sampled(false).answer();
    for which in [1, LEADER] {
        let asked = cluster.sampled(true);
        let member = cluster.member(which);
        let index = cluster.node_of(which);
        cluster.nodes[index].kill();
        until("its member is gone", || !is_running(member));
        cluster.nodes[index] = cluster.node(NAMES[index]);
        assert_eq!(asked.answer(), whole, "it waited for a group to be there again");
    }
}

#[test]
fn who_does_not_belong_is_turned_away() {
    let cluster = Cluster::start();
    let ca = cluster.path("control/ca");

    let ended = Troupe::run(&cluster.node_args(NAMES[0], "other", &ca));
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("a host named a is in the cluster already"), "{}", ended.log);

    let ended = Troupe::run(&cluster.node_args("c", NAMES[0], &ca));
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("is used by another process"), "{}", ended.log);

    // A copy of the other's data directory, on what could be another host.
    fs::create_dir_all(cluster.path("copied/node")).expect("a folder");
    for file in fs::read_dir(cluster.path(&format!("{}/node", NAMES[0]))).expect("its identity") {
        let file = file.expect("a file").path();
        if file.is_dir() {
            continue;
        }
        let name = file.file_name().expect("a name").to_str().expect("plain").to_owned();
        fs::copy(&file, cluster.path(&format!("copied/node/{name}"))).expect("copied");
    }
    let ended = Troupe::run(&cluster.node_args("c", "copied", &ca));
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("is a copy of its data directory"), "{}", ended.log);

    // One of another cluster, and one of a cluster that only has the same name.
    for (name, words) in [("foreign", "is the CA of cluster foreign"), ("troupe", "another CA")] {
        let ended = Troupe::run(&cluster.node_args("c", "c", &cluster.other_ca(name)));
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        assert!(ended.log.contains(words), "{}", ended.log);
    }

    // And nobody took harm.
    cluster.until_it_serves_again();
}

#[test]
fn an_etcd_that_is_full_takes_no_node_and_stops_no_service() {
    let cluster = Cluster::start_on(EtcdProcess::start_with(&["--quota-backend-bytes", "4194304"]));
    let etcd = cluster.etcd.endpoint().parse().expect("its address");
    let junk = json!({"key": "anVuaw==", "value": "A".repeat(1 << 20)});
    until("etcd is full", || {
        let answer = http::post(etcd, "/v3/kv/put", &junk).expect("an answer");
        answer.text.contains("database space exceeded")
    });
    let ended = Troupe::run(&cluster.node_args("c", "c", &cluster.path("control/ca")));
    assert!(ended.code.is_some_and(|code| code > 0), "{}", ended.log);
    assert!(ended.log.contains("NOSPACE"), "{}", ended.log);
    assert_eq!(cluster.ask(), Ok(()));
}

#[test]
fn a_service_outlives_etcd() {
    let mut cluster = Cluster::start();
    cluster.etcd.kill();
    assert_eq!(cluster.ask(), Ok(()));
    cluster.etcd.restart();
    assert_eq!(cluster.ask(), Ok(()));
    // The controller is at work again too.
    let member = cluster.member(LEADER);
    process::kill(member);
    until("it is gone", || !is_running(member));
    cluster.until_it_serves_again();
}

#[test]
fn a_gateway_starts_while_etcd_is_away_with_what_it_last_knew() {
    let mut cluster = Cluster::start();
    let args = cluster.gateway_args("gateway");
    let mut before = Troupe::start(&args);
    before.until_said("gateway on ");
    let kept = cluster.path("gateway/endpoints.json");
    until("what it knows is kept", || {
        fs::read_to_string(&kept).is_ok_and(|text| text.contains("two-stages"))
    });
    before.interrupt();
    assert!(before.ended().success());
    cluster.etcd.kill();
    let mut after = Troupe::start(&args);
    let address = after.address("gateway on ");
    until("it answers", || cluster.question.ask(address).is_ok());
    // One that never knew a cluster says what it needs.
    let ended = Troupe::run(&cluster.gateway_args("new-gateway"));
    assert!(ended.code.is_some_and(|code| code > 0), "{}", ended.log);
}

#[test]
fn a_host_that_is_stopped_finishes_what_its_group_has() {
    let mut cluster = Cluster::start();
    // The leader's host, then a worker's.
    for which in [LEADER, 1] {
        let mut body = completion(&cluster.question.prompt, 100);
        body["stream"] = json!(true);
        let stream = http::stream(cluster.control.address, "/v1/completions", &body);
        let mut stream = stream.expect("an answer");
        let Some(http::Event::Data(first)) = stream.next() else { panic!("it does not begin") };
        let mut count = tokens(&first["choices"][0]).len();
        let index = cluster.node_of(which);
        cluster.nodes[index].interrupt();
        for event in stream {
            match event {
                http::Event::Data(data) => count += tokens(&data["choices"][0]).len(),
                http::Event::Done => break,
                http::Event::Broken(why) => panic!("it broke: {why}"),
            }
        }
        assert_eq!(count, 100, "all of it");
        assert!(cluster.nodes[index].ended().success());
        cluster.nodes[index] = cluster.node(NAMES[index]);
        cluster.until_it_serves_again();
    }
}

#[test]
fn an_etcd_that_lost_everything_is_filled_by_those_who_remember() {
    let mut cluster = Cluster::start();
    let keys = Keys::new("troupe");
    let lost = cluster.records(&keys.incarnation());
    let spec = cluster.records(&keys.all_specs());
    assert_eq!((lost.len(), spec.len()), (1, 1));
    let gateways = cluster.records(&keys.gateways());
    let [gateway] = gateways.as_slice() else { panic!("one gateway: {gateways:?}") };
    let record: GatewayRecord = read(gateway);
    assert_eq!(record.address, cluster.control.address.to_string());
    assert!(gateway.key.ends_with(&record.id.to_string()), "{gateway:?}");
    let endpoints = cluster.records(&keys.endpoints());
    let members = [cluster.member(LEADER), cluster.member(1)];
    let mut stream = cluster.stream();

    cluster.etcd.kill();
    cluster.etcd.wipe();
    cluster.etcd.restart();
    // Nobody declares the service again: the nodes kept it.
    let values = |entries: Vec<Entry>| entries.into_iter().map(|e| e.value).collect::<Vec<_>>();
    let spec = values(spec);
    until("the spec is back", || values(cluster.records(&keys.all_specs())) == spec);
    // What runs goes on, and is taken up as it runs.
    assert_eq!(cluster.ask(), Ok(()));
    let epoch = |entry: &Entry| read::<EndpointRecord>(entry).info.endpoint.epoch;
    until("its group is planned as it runs", || {
        let groups = cluster.records(&keys.groups());
        groups.iter().any(|entry| read::<GroupRecord>(entry).epoch == epoch(&endpoints[0]))
    });
    until("its endpoint is there", || {
        let found = cluster.records(&keys.endpoints());
        found.iter().map(epoch).eq(endpoints.iter().map(epoch))
    });
    assert_eq!(cluster.ask(), Ok(()));
    assert!(matches!(stream.next(), Some(http::Event::Data(_))), "the stream goes on");
    drop(stream);
    assert!(members.into_iter().all(is_running));
    let found = cluster.records(&keys.incarnation());
    assert!(found.len() == 1 && found[0].value != lost[0].value, "{found:?}");
    until("all hosts and the gateway are back", || {
        let nodes = cluster.records(&keys.nodes());
        (nodes.len(), values(cluster.records(&keys.gateways()))) == (2, vec![gateway.value.clone()])
    });

    // Deleted, it is not given back.
    let key = cluster.records(&keys.all_specs()).remove(0).key;
    cluster.delete(&key);
    until("its tombstone", || {
        let found = cluster.records(&key);
        found.iter().any(|entry| Declared::of(&entry.value).is_some_and(|found| found.deleted))
    });
    until("its group is gone", || cluster.records(&keys.groups()).is_empty());

    cluster.control.troupe.interrupt();
    until("its gateway is no longer listed", || cluster.records(&keys.gateways()).is_empty());
}

#[test]
fn nothing_starts_without_etcd() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path that can be written");
    let ended = Troupe::run(&["up", "--etcd", "http://127.0.0.1:1", "--data-dir", data]);
    assert!(ended.code.is_some_and(|code| code > 0), "{}", ended.log);
    assert!(ended.log.contains("127.0.0.1:1"), "{}", ended.log);
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
}

/// Member 0 leads.
const LEADER: u64 = 0;
const NAMES: [&str; 2] = ["a", "b"];

/// Controller and gateway in one process, two nodes with a device each, a service of two stages.
/// In this order: what is started first ends last.
struct Cluster {
    nodes: Vec<Troupe>,
    control: Server,
    etcd: EtcdProcess,
    folder: TempDir,
    question: Question,
}

impl Cluster {
    fn start() -> Self {
        Self::start_on(EtcdProcess::start())
    }

    fn start_on(etcd: EtcdProcess) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("service.yaml"), service()).expect("it can be written");
        let endpoint = etcd.endpoint();
        let (data, service) = (path("control"), path("service.yaml"));
        let mut args = vec!["up", "--roles", "controller,gateway", "--etcd", &endpoint];
        args.extend(["-f", &service, "--data-dir", &data, "--listen", "127.0.0.1:0"]);
        args.extend(["--host", "127.0.0.1", "--port", "0", "--log-format", "json"]);
        let mut troupe = Troupe::start(&args);
        let address = troupe.address("gateway on ");
        // Nodes need the CA, which is there by now.
        let control = Server { troupe, address };
        let question = Question::golden();
        let mut cluster = Self { nodes: Vec::new(), control, etcd, folder, question };
        cluster.nodes = NAMES.map(|name| cluster.node(name)).into();
        // Until there is an endpoint, the gateway does not know the model.
        until("the service serves", || cluster.ask().is_ok());
        cluster
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn node(&self, name: &str) -> Troupe {
        Troupe::start(&self.node_args(name, name, &self.path("control/ca")))
    }

    fn node_args(&self, name: &str, data: &str, ca: &str) -> Vec<String> {
        let (etcd, data) = (self.etcd.endpoint(), self.path(data));
        let args = ["node", "--etcd", &etcd, "--name", name, "--data-dir", &data, "--ca", ca];
        let more = ["--listen", "127.0.0.1:0", "--log-format", "json"];
        args.into_iter().chain(more).map(str::to_owned).collect()
    }

    fn gateway_args(&self, data: &str) -> Vec<String> {
        let (etcd, data, ca) = (self.etcd.endpoint(), self.path(data), self.path("control/ca"));
        let args = ["gateway", "--etcd", &etcd, "--data-dir", &data, "--ca", &ca];
        let more = ["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"];
        args.into_iter().chain(more).map(str::to_owned).collect()
    }

    /// The CA of a control host that has nothing to do with this cluster. It is made before etcd is
    /// looked for, and there is none at this address.
    fn other_ca(&self, cluster: &str) -> String {
        let data = self.path(&format!("other-{cluster}"));
        let mut args = vec!["up", "--roles", "controller", "--etcd", "http://127.0.0.1:1"];
        args.extend(["--cluster", cluster, "--data-dir", &data]);
        let ended = Troupe::run(&args);
        assert!(ended.code.is_some_and(|code| code > 0), "{}", ended.log);
        assert!(ended.log.contains("127.0.0.1:1"), "{}", ended.log);
        format!("{data}/ca")
    }

    /// Asks for tokens, which are the golden ones, or gives back the status of the refusal.
    fn ask(&self) -> Result<(), u16> {
        self.question.ask(self.control.address)
    }

    /// What etcd holds under a prefix; nothing while it does not answer.
    fn records(&self, prefix: &str) -> Vec<Entry> {
        self.ask_etcd(async |etcd| etcd.list(prefix).await.unwrap_or_default())
    }

    /// Deletes a key, as an operator does.
    fn delete(&self, key: &str) {
        let txn = Txn { compare: vec![], then: vec![Op::Delete(key.into())] };
        assert!(self.ask_etcd(async |etcd| etcd.commit(txn).await).expect("it answers"));
    }

    fn ask_etcd<T>(&self, ask: impl AsyncFnOnce(EtcdRegistry) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("threads").block_on(async {
            let etcd = EtcdRegistry::new(EtcdConfig::new([self.etcd.endpoint()])).await;
            ask(etcd.expect("an endpoint")).await
        })
    }

    /// Waits until requests are served once more; until then they are told to try again.
    fn until_it_serves_again(&self) {
        until("the service serves again", || match self.ask() {
            Ok(()) => true,
            Err(status) => {
                assert_eq!(status, 503);
                false
            }
        });
    }

    /// A stream that has produced a token and has many to go.
    fn stream(&self) -> http::Stream {
        let mut body = completion(&self.question.prompt, 500);
        body["stream"] = json!(true);
        let stream = http::stream(self.control.address, "/v1/completions", &body);
        let mut stream = stream.expect("an answer");
        assert_eq!(stream.status, 200);
        let Some(http::Event::Data(first)) = stream.next() else { panic!("it does not begin") };
        assert!(!tokens(&first["choices"][0]).is_empty(), "{first}");
        stream
    }

    /// Asks for tokens that are drawn by chance from a seed, and waits until they come.
    fn sampled(&self, stream: bool) -> Asked {
        let mut body = completion(&self.question.prompt, 60);
        (body["temperature"], body["seed"], body["stream"]) = (json!(1.0), json!(7), json!(stream));
        let address = self.control.address;
        let (begun, has_begun) = mpsc::sync_channel(1);
        let answered = move || {
            if stream {
                let stream = http::stream(address, "/v1/completions", &body).expect("an answer");
                // Nobody waits for it any more after the first.
                return streamed(stream, || {
                    let _ = begun.try_send(());
                });
            }
            drop(begun);
            let answer = http::post(address, "/v1/completions", &body).expect("an answer");
            tokens(&answer.ok()["choices"][0])
        };
        let made = || self.control.metric("vllm:generation_tokens_total");
        let before = made();
        let asked = Asked(std::thread::spawn(answered));
        if stream {
            has_begun.recv().expect("it begins");
        } else {
            until("the gateway has tokens of it", || made() > before);
        }
        asked
    }

    /// The index of the node that runs this member of the group now.
    fn node_of(&self, member: u64) -> usize {
        let runs = |node: &Troupe| {
            let started = node.said("start member");
            started.last().is_some_and(|line| line["fields"]["member"] == member)
        };
        self.nodes.iter().position(runs).expect("a node runs it")
    }

    /// The process of this member of the group.
    fn member(&self, member: u64) -> u32 {
        let members = self.nodes[self.node_of(member)].members();
        assert_eq!(members.len(), 1, "one device, one member: {members:?}");
        members[0]
    }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> T {
    directory::from_bytes(&entry.key, &entry.value).expect("a record")
}

/// A request under way on a thread of its own, which has begun to be answered.
struct Asked(std::thread::JoinHandle<Vec<u32>>);

impl Asked {
    /// All of its tokens.
    fn answer(self) -> Vec<u32> {
        self.0.join().expect("it was answered")
    }
}

fn service() -> String {
    let mut service = two_stages();
    // Slow enough that a stream is still under way when something is killed.
    service["spec"]["template"] =
        json!({"containers": [{"name": "main", "args": ["--stage-time-min-ms=20"]}]});
    service.to_string()
}
