//! Guests over an in-process link: records go both ways, go with their guest, and what is no longer
//! true when it comes again goes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use troupe_actors::{
    controller::desired::launch,
    guest::{
        admission::Admission,
        host::Host,
        visit::{Guest, Parted},
    },
    host::door::{self, Desks},
};
use troupe_runtime::{
    discovery::{Op, Registry, Txn, WatchEvent, directory, embedded::EmbeddedRegistry, keys::Keys},
    id::NodeId,
    transport::{Class, Link, LocalLink, LocalNetwork, PeerIdentity, PeerRole},
    wire::guest::Arrival,
};
use uuid::Uuid;

#[tokio::test]
async fn records_go_both_ways_and_go_with_their_guest() {
    let house = House::new();
    let keys = &house.keys;
    let guest = house.guest(1);
    let (node, status) = (keys.node(guest.arrival.node), keys.node_status(guest.arrival.node));
    put(&guest.registry, &node, "a node").await;
    put(&guest.registry, &status, "its members").await;
    put(&guest.registry, "/troupe/test/names/vm", "its own business").await;
    put(&house.registry, &group(keys, "old"), "as planned").await;
    let visit = house.visit(guest.clone());
    holds(&house.registry, &node, Some("a node")).await;
    holds(&house.registry, &status, Some("its members")).await;
    holds(&guest.registry, &group(keys, "old"), Some("as planned")).await;
    assert_eq!(house.host.missing(), [2]);

    // What changes while it is here.
    put(&guest.registry, &status, "one more").await;
    holds(&house.registry, &status, Some("one more")).await;
    put(&house.registry, &keys.node_status(id(0)), "the host's members").await;
    holds(&guest.registry, &keys.node_status(id(0)), Some("the host's members")).await;
    assert_eq!(house.registry.get("/troupe/test/names/vm").await.unwrap(), None);

    drop(visit);
    holds(&house.registry, &node, None).await;
    holds(&house.registry, &status, None).await;
    let gone = async {
        while house.host.missing() != [1, 2] {
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT, gone).await.unwrap();
    // A guest keeps what it has, until it comes again to a host that planned something else.
    holds(&guest.registry, &group(keys, "old"), Some("as planned")).await;
    delete(&house.registry, &group(keys, "old")).await;
    put(&house.registry, &group(keys, "new"), "planned anew").await;
    let _visit = house.visit(guest.clone());
    holds(&guest.registry, &group(keys, "new"), Some("planned anew")).await;
    holds(&guest.registry, &group(keys, "old"), None).await;
    holds(&guest.registry, &status, Some("one more")).await;
    holds(&house.registry, &node, Some("a node")).await;
}

#[tokio::test]
async fn who_is_turned_away_is_told_why() {
    let house = House::new();
    let first = house.guest(1);
    put(&first.registry, &house.keys.node(id(1)), "a node").await;
    let _visit = house.visit(first);
    holds(&house.registry, &house.keys.node(id(1)), Some("a node")).await;

    let parted = house.visit_to_the_end(&house.guest(1)).await;
    assert!(matches!(parted, Parted::Later(_)), "{parted}");
    let mut other = Arc::into_inner(house.guest(2)).unwrap();
    other.arrival.size = 4;
    let parted = house.visit_to_the_end(&other).await;
    assert!(matches!(parted, Parted::Refused(_)), "{parted}");
}

#[tokio::test]
async fn a_guest_writes_its_own_records_only() {
    let house = House::new();
    // Its node says that it is another's, which only an attacker's does.
    let mut guest = Arc::into_inner(house.guest(1)).unwrap();
    guest.arrival.node = id(2);
    let guest = Arc::new(guest);
    put(&guest.registry, &house.keys.node(id(1)), "not told").await;
    put(&guest.registry, &house.keys.node(id(2)), "told").await;
    let _visit = house.visit(guest);
    holds(&house.registry, &house.keys.node(id(2)), Some("told")).await;
    assert_eq!(house.registry.get(&house.keys.node(id(1))).await.unwrap(), None);
}

/// A host that takes guests.
struct House {
    registry: Arc<dyn Registry>,
    keys: Keys,
    host: Arc<Host>,
    network: LocalNetwork,
    link: Arc<LocalLink>,
    _tasks: JoinSet<()>,
}

impl House {
    fn new() -> Self {
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::new());
        let keys = Keys::new("test");
        let network = LocalNetwork::new();
        let link = network.link(identity(0));
        let admission = Mutex::new(Admission::new(3, run()));
        let host = Host { registry: registry.clone(), keys: keys.clone(), admission };
        let host = Arc::new(host);
        let mut tasks = JoinSet::new();
        let desks = Desks { guest: Some(host.clone()), ..Desks::default() };
        tasks.spawn(door::keep(link.clone(), desks));
        Self { registry, keys, host, network, link, _tasks: tasks }
    }

    fn guest(&self, index: u32) -> Arc<Guest> {
        Arc::new(Guest {
            registry: Arc::new(EmbeddedRegistry::new()),
            keys: self.keys.clone(),
            arrival: Arrival {
                index,
                size: 3,
                node: id(index),
                launch: directory::to_bytes(run()),
            },
        })
    }

    /// A visit that lasts as long as what this gives back.
    fn visit(&self, guest: Arc<Guest>) -> JoinSet<()> {
        let (network, address) = (self.network.clone(), self.link.address());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let link = network.link(identity(guest.arrival.index));
            let connection = link.connect(&address, Class::Control, WAIT).await.unwrap();
            let parted = guest.visit(connection, || {}).await;
            panic!("it ended by itself: {parted}");
        });
        tasks
    }

    async fn visit_to_the_end(&self, guest: &Guest) -> Parted {
        let link = self.network.link(identity(guest.arrival.index));
        let connection = link.connect(&self.link.address(), Class::Control, WAIT).await.unwrap();
        let visit = guest.visit(connection, || panic!("it was let in"));
        timeout(WAIT, visit).await.unwrap()
    }
}

fn run() -> directory::Launch {
    launch("/models/m".into(), "m".into(), Default::default())
}

fn id(index: u32) -> NodeId {
    NodeId(Uuid::from_u128(u128::from(index)))
}

fn identity(index: u32) -> PeerIdentity {
    PeerIdentity { cluster: "test".into(), role: PeerRole::Node, node: id(index) }
}

fn group(keys: &Keys, name: &str) -> String {
    format!("{}default/{name}/0", keys.groups())
}

async fn put(registry: &Arc<dyn Registry>, key: &str, value: &str) {
    write(registry, Op::Put(key.into(), value.into())).await;
}

async fn delete(registry: &Arc<dyn Registry>, key: &str) {
    write(registry, Op::Delete(key.into())).await;
}

async fn write(registry: &Arc<dyn Registry>, op: Op) {
    assert!(registry.commit(Txn { compare: vec![], then: vec![op] }).await.unwrap());
}

/// Waits until a key has this value, or is not there.
async fn holds(registry: &Arc<dyn Registry>, key: &str, value: Option<&str>) {
    let mut watch = registry.watch(key).await.unwrap();
    let waits = async {
        let mut found = None;
        let mut synced = false;
        while !synced || found.as_deref() != value {
            match watch.next().await.unwrap() {
                WatchEvent::Put(entry) if entry.key == key => {
                    found = Some(String::from_utf8(entry.value).unwrap());
                }
                WatchEvent::Delete(gone) if gone == key => found = None,
                WatchEvent::Synced => synced = true,
                _ => {}
            }
        }
    };
    timeout(WAIT, waits).await.unwrap_or_else(|_| panic!("{key} is not {value:?}"));
}

/// Longer than any of it takes.
const WAIT: Duration = Duration::from_secs(20);
