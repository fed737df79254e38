//! A preflight over hosts in one process: what an operator is told of those that are fit, of one
//! that is cut off from another, and of ones that answer nothing or nonsense.

use std::sync::Arc;

use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};
use troupe_actors::{
    host::{About, Desks, Facts, HostDesk, PreflightDesk, door},
    node::logs::{Reader, Shelf},
};
use troupe_runtime::{
    discovery::{
        Op, Registry, Txn,
        directory::{self, NodeRecord},
        embedded::EmbeddedRegistry,
        keys::Keys,
    },
    id::NodeId,
    model::source::ModelAccess,
    transport::{
        Class, Connection, Conversation, Faults, Link, LinkError, LocalNetwork, PeerIdentity,
        PeerRole, Stream,
    },
    wire::{
        VERSION,
        host::{HostDown, HostUp},
        operate::{Reason, Refusal},
        preflight::{PreflightDown, PreflightUp},
    },
};
use uuid::Uuid;

use crate::support::WAIT;

#[tokio::test]
async fn hosts_that_are_fit_are_found_so() {
    let mut field = Field::open().await;
    for number in [1, 2, 3] {
        field.host(number).await;
    }
    let said = field.preflight(PreflightUp::default()).await.unwrap();
    let names: Vec<&str> = said.hosts.iter().map(|host| text(host, "/name")).collect();
    assert_eq!(names, ["(control)", "n1", "n2", "n3"]);
    assert_eq!(said.hosts[1]["devices"]["count"], 1);
    assert!(said.hosts[1]["limits"]["openFiles"].is_u64(), "{}", said.hosts[1]);
    assert_eq!(said.ways.len(), 12, "every pair both ways");
    for way in &said.ways {
        assert!(way["bytesPerSecond"].as_f64().is_some_and(|rate| rate > 0.0), "{way}");
        let wrong = way["clock"]["aheadMicros"].as_i64().unwrap().abs();
        assert!(wrong < 1_000_000, "they have one clock: {way}");
    }
    assert_eq!(said.refused(), Vec::<&str>::new());
    let right = said.findings.iter().filter(|finding| finding["severity"] == "ok");
    let topics: Vec<&str> = right.map(|finding| text(finding, "/topic")).collect();
    assert!(topics.contains(&"versions") && topics.contains(&"clocks"), "{topics:?}");

    // Only some of them, and a model that none has.
    let hosts = vec!["n2".to_owned()];
    let ask = PreflightUp { hosts, model: Some("file:///not/here".into()) };
    let said = field.preflight(ask).await.unwrap();
    assert_eq!((said.hosts.len(), said.ways.len()), (2, 2));
    assert_eq!(said.refused(), ["(control)", "n2"], "{:?}", said.findings);
    let nobody = PreflightUp { hosts: vec!["n9".into()], model: None };
    let refusal = field.preflight(nobody).await.unwrap_err();
    assert_eq!(refusal, Refusal::new(Reason::NotFound, "nodes \"n9\" not found"));
}

#[tokio::test(start_paused = true)]
async fn a_way_that_is_cut_is_named_with_both_ends() {
    let mut field = Field::open().await;
    for number in [1, 2, 3] {
        field.host(number).await;
    }
    field.faults.partition(id(1), id(2));
    let said = field.preflight(PreflightUp::default()).await.unwrap();
    assert_eq!(said.refused(), ["n1 -> n2", "n2 -> n1"], "{:?}", said.findings);
}

#[tokio::test(start_paused = true)]
async fn nobody_can_hold_a_preflight_up() {
    let mut field = Field::open().await;
    field.host(1).await;
    field.stranger(2, Manners::Silent).await;
    field.stranger(3, Manners::Nonsense).await;
    field.stranger(4, Manners::Gone).await;
    let said = field.preflight(PreflightUp::default()).await.unwrap();
    assert_eq!(said.ways.len(), 2, "those who said nothing of themselves are not measured");
    assert_eq!(said.refused(), ["n2", "n3", "n4"], "{:?}", said.findings);
    let why: Vec<&str> = said.hosts[2..].iter().map(|host| text(host, "/silent")).collect();
    assert!(why[0].contains("took longer"), "{why:?}");
    assert!(why[1].contains("another question"), "{why:?}");
    assert!(why[2].contains("cannot connect"), "{why:?}");
}

#[tokio::test]
async fn one_at_a_time_and_none_for_an_operator_who_is_gone() {
    let mut field = Field::open().await;
    field.stranger(1, Manners::Silent).await;
    let ask = PreflightUp::default();
    let mut first = field.ask(&ask).await;
    let down = timeout(WAIT, first.receiver.next::<PreflightDown>()).await.unwrap().unwrap();
    assert!(matches!(down, Some(PreflightDown::Host(_))), "it is under way: {down:?}");
    let refusal = field.preflight(ask.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::ServiceUnavailable);
    drop(first);
    let taken = async {
        loop {
            let mut next = field.ask(&ask).await;
            match next.receiver.next::<PreflightDown>().await.unwrap() {
                Some(PreflightDown::Refused(_)) => tokio::task::yield_now().await,
                down => break down,
            }
        }
    };
    let down = timeout(WAIT, taken).await.unwrap();
    assert!(matches!(down, Some(PreflightDown::Host(_))), "{down:?}");
}

/// A control host, an operator's connection to it, and hosts.
struct Field {
    registry: Arc<EmbeddedRegistry>,
    keys: Keys,
    network: LocalNetwork,
    faults: Faults,
    connection: Arc<dyn Connection>,
    /// The operator's; dropped, it takes the connection along.
    _link: Arc<dyn Link>,
    doors: JoinSet<()>,
}

/// How a host behaves that is not ours.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    /// Takes questions and never answers.
    Silent,
    /// Answers what was not asked.
    Nonsense,
    /// Is in the store, and nowhere else.
    Gone,
}

/// What an operator was told.
#[derive(Debug, Default)]
struct Said {
    hosts: Vec<Value>,
    ways: Vec<Value>,
    findings: Vec<Value>,
}

impl Field {
    async fn open() -> Self {
        let (registry, keys) = (Arc::new(EmbeddedRegistry::new()), Keys::new("test"));
        let (network, faults) = (LocalNetwork::new(), Faults::new(1));
        let control = link(&network, &faults, PeerRole::Control, 0);
        let desk = PreflightDesk::new(
            registry.clone(),
            keys.clone(),
            control.clone(),
            control.address(),
            facts(0),
        );
        let address = control.address();
        let mut doors = JoinSet::new();
        let desks = Desks { preflight: Some(Arc::new(desk)), ..Desks::default() };
        doors.spawn(door::keep(control, desks));
        let operator = link(&network, &faults, PeerRole::Operator, 100);
        let connection = operator.connect(&address, Class::Control, WAIT).await.unwrap();
        Self { registry, keys, network, faults, connection, _link: operator, doors }
    }

    /// A host as `troupe node` opens its door.
    async fn host(&mut self, number: u128) {
        let link = link(&self.network, &self.faults, PeerRole::Node, number);
        let logs = Reader::new(Shelf::new(&std::env::temp_dir()));
        let desk = HostDesk::new(logs, facts(1), link.clone());
        self.enter(number, &*link).await;
        let desks = Desks { host: Some(Arc::new(desk)), ..Desks::default() };
        self.doors.spawn(door::keep(link, desks));
    }

    async fn stranger(&mut self, number: u128, manners: Manners) {
        let link = link(&self.network, &self.faults, PeerRole::Node, number);
        self.enter(number, &*link).await;
        if manners != Manners::Gone {
            self.doors.spawn(async move {
                let mut held = JoinSet::new();
                while let Some(connection) = link.accept().await {
                    held.spawn(be(connection, manners));
                }
            });
        }
    }

    async fn enter(&self, number: u128, link: &dyn Link) {
        let record = NodeRecord {
            id: id(number),
            name: format!("n{number}"),
            process: Uuid::from_u128(number),
            devices: 1,
            device_kind: "cpu".into(),
            version: "0.1.0".into(),
            wire: VERSION,
            labels: Default::default(),
            device_memory: 1 << 30,
            address: Some(link.address().to_string()),
            leaving: false,
        };
        let put = Op::Put(self.keys.node(record.id), directory::to_bytes(record));
        let txn = Txn { compare: vec![], then: vec![put] };
        assert!(self.registry.commit(txn).await.unwrap());
    }

    async fn ask(&self, ask: &PreflightUp) -> Stream {
        let mut stream = self.connection.open(Conversation::Preflight, WAIT).await.unwrap();
        stream.sender.send(ask, WAIT).await.unwrap();
        stream
    }

    async fn preflight(&self, ask: PreflightUp) -> Result<Said, Refusal> {
        let mut stream = self.ask(&ask).await;
        let mut said = Said::default();
        let parse = |text: String| serde_json::from_str(&text).unwrap();
        while let Some(down) = timeout(WAIT * 3, stream.receiver.next()).await.unwrap().unwrap() {
            match down {
                PreflightDown::Host(host) => said.hosts.push(parse(host)),
                PreflightDown::Way(way) => said.ways.push(parse(way)),
                PreflightDown::Finding(finding) => said.findings.push(parse(finding)),
                PreflightDown::Refused(refusal) => return Err(refusal),
            }
        }
        Ok(said)
    }
}

impl Said {
    /// What is refused, by whom or what it is about. What this machine's own limits are is its
    /// owner's business.
    fn refused(&self) -> Vec<&str> {
        let refused = self.findings.iter().filter(|finding| finding["severity"] == "refused");
        let refused =
            refused.filter(|finding| finding["topic"] != "limits" && finding["topic"] != "disks");
        refused.map(|finding| text(finding, "/about")).collect()
    }
}

async fn be(connection: Arc<dyn Connection>, manners: Manners) -> Result<(), LinkError> {
    let mut held = Vec::new();
    loop {
        let (_, mut stream) = connection.accept().await?;
        if manners == Manners::Nonsense {
            stream.receiver.expect::<HostUp>(WAIT).await?;
            stream.sender.send(&HostDown::Lines(vec!["?".into()]), WAIT).await?;
        }
        held.push(stream);
    }
}

fn link(network: &LocalNetwork, faults: &Faults, role: PeerRole, number: u128) -> Arc<dyn Link> {
    let identity = PeerIdentity { cluster: "test".into(), role, node: id(number) };
    faults.wrap(network.link(identity), id(number))
}

fn facts(devices: u32) -> Facts {
    let temporary = std::env::temp_dir();
    Facts::new(About {
        version: "0.1.0".into(),
        devices,
        device_kind: "cpu".into(),
        device_memory: 1 << 30,
        data_dir: None,
        cache_dir: temporary.clone(),
        hub: ModelAccess::offline(temporary),
    })
}

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{document}"))
}
