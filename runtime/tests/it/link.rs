//! The contract of `Link`, run against every carrier, and what only QUIC must withstand.

mod contract;
mod faults;
mod lanes;
mod quic;
mod shared;

use lanes::lanes;
use shared::shared;
use std::{any::Any, net::SocketAddr, sync::Arc, time::Duration};

use troupe_runtime::{
    id::NodeId,
    transport::{
        Class, Connection, Faults, Link, LocalNetwork, PeerIdentity, PeerRole, QuicConfig,
        QuicLink, TransportRuntime,
        tls::{ClusterAuthority, Identity},
    },
    wire::generate::{Finish, FinishReason, GenerateUp},
};
use uuid::Uuid;

/// For whatever should happen at once: long enough for a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(30);

/// Two links that can reach each other, and whatever must live as long as they do.
struct Pair {
    a: Arc<dyn Link>,
    b: Arc<dyn Link>,
    _keep: Box<dyn Any + Send>,
}

/// A connection from `a` to `b`, as each of them holds it.
struct Connected {
    at_a: Arc<dyn Connection>,
    at_b: Arc<dyn Connection>,
}

impl Pair {
    async fn connect(&self, class: Class) -> Connected {
        let address = self.b.address();
        let (at_a, at_b) = tokio::join!(self.a.connect(&address, class, LONG), self.b.accept());
        Connected { at_a: at_a.unwrap(), at_b: at_b.unwrap() }
    }
}

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn local(a: PeerRole, b: PeerRole) -> Pair {
    let network = LocalNetwork::new();
    let link = |role, number| {
        network.link(PeerIdentity { cluster: "test".into(), role, node: node(number) })
    };
    Pair { a: link(a, 1), b: link(b, 2), _keep: Box::new(()) }
}

fn on_loopback() -> QuicConfig {
    QuicConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..QuicConfig::default() }
}

/// A QUIC link on threads of its own.
fn quic_link(identity: &Identity) -> (Arc<QuicLink>, TransportRuntime) {
    let runtime = TransportRuntime::new(1).unwrap();
    (QuicLink::bind(identity, &on_loopback(), &runtime).unwrap(), runtime)
}

fn quic(a: PeerRole, b: PeerRole) -> Pair {
    let ca = ClusterAuthority::create("test").unwrap();
    let (a, runtime_a) = quic_link(&ca.issue(a, node(1)).unwrap());
    let (b, runtime_b) = quic_link(&ca.issue(b, node(2)).unwrap());
    Pair { a, b, _keep: Box::new((runtime_a, runtime_b)) }
}

/// The wrapper without a fault set is a carrier like any other.
fn faulty(a: PeerRole, b: PeerRole) -> Pair {
    let inner = local(a, b);
    let faults = Faults::new(1);
    let (a, b) = (faults.wrap(inner.a, node(1)), faults.wrap(inner.b, node(2)));
    Pair { a, b, _keep: Box::new(()) }
}

/// A small message that can be told apart from its neighbors.
fn numbered(number: u32) -> GenerateUp {
    GenerateUp::Finish(Finish { choice: number, reason: FinishReason::Stop, tokens_kept: 0 })
}

fn number_of(message: &GenerateUp) -> u32 {
    match message {
        GenerateUp::Finish(finish) => finish.choice,
        GenerateUp::Start(_) => panic!("another message than was sent: {message:?}"),
    }
}
