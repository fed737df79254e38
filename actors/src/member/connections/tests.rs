//! Many who need a connection at the same moment, over a link whose attempts are counted and held.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use troupe_runtime::{
    id::NodeId,
    transport::{LocalNetwork, PeerAddr, PeerIdentity, PeerRole},
};

use super::*;

/// A link that lets attempts through one by one, as it is told.
#[derive(Debug)]
struct Gate {
    link: Arc<dyn Link>,
    attempts: AtomicUsize,
    through: Semaphore,
}

#[async_trait]
impl Link for Gate {
    fn address(&self) -> PeerAddr {
        self.link.address()
    }

    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        self.through.acquire().await.expect("it is never closed").forget();
        self.link.connect(peer, class, deadline).await
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.link.accept().await
    }

    async fn close(&self, reason: &str) {
        self.link.close(reason).await;
    }
}

/// Two ends of a network: one whose attempts are held, one that is connected to.
fn ends() -> (Arc<Gate>, Connections, Arc<dyn Link>) {
    let network = LocalNetwork::new();
    let identity = PeerIdentity {
        cluster: "test".into(),
        role: PeerRole::Node,
        node: NodeId(uuid::Uuid::from_u128(1)),
    };
    let link: Arc<dyn Link> = network.link(identity.clone());
    let gate = Arc::new(Gate { link, attempts: AtomicUsize::new(0), through: Semaphore::new(0) });
    let connections = Connections::new(gate.clone(), Class::Control);
    (gate, connections, network.link(identity))
}

impl Gate {
    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn who_begins_at_the_same_time_shares_one_connection() {
    let (gate, connections, there) = ends();
    let address = there.address().to_string();
    let opens = (0..8).map(|_| connections.open(&address, Conversation::Prefill));
    let (opened, ()) = tokio::join!(join_all(opens), async { gate.through.add_permits(8) });
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(gate.attempts(), 1);
    // And so does who comes later.
    connections.open(&address, Conversation::Prefill).await.expect("opened");
    assert_eq!(gate.attempts(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_to_all_who_waited_and_to_no_other() {
    let (gate, connections, there) = ends();
    let address = there.address().to_string();
    there.close("gone").await;
    let opens = (0..8).map(|_| connections.open(&address, Conversation::Prefill));
    let (opened, ()) = tokio::join!(join_all(opens), async { gate.through.add_permits(1) });
    for result in opened {
        assert!(matches!(result, Err(LinkError::Unreachable { .. })), "{result:?}");
    }
    assert_eq!(gate.attempts(), 1);
    gate.through.add_permits(1);
    connections.open(&address, Conversation::Prefill).await.expect_err("nobody is there");
    assert_eq!(gate.attempts(), 2);
}

#[tokio::test]
async fn who_waits_goes_on_for_one_that_was_given_up() {
    let (gate, connections, there) = ends();
    let address = there.address().to_string();
    let first = connections.open(&address, Conversation::Prefill);
    let second = connections.open(&address, Conversation::Prefill);
    let given_up = async {
        tokio::select! {
            biased;
            opened = first => panic!("it is held: {opened:?}"),
            // The second waits for it by then.
            () = tokio::task::yield_now() => {}
        }
        gate.through.add_permits(1);
    };
    let ((), opened) = tokio::join!(biased; given_up, second);
    opened.expect("opened");
    assert_eq!(gate.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_for_a_connection() {
    let (gate, connections, there) = ends();
    let address = there.address().to_string();
    let first = connections.open(&address, Conversation::Prefill);
    let second = connections.open(&address, Conversation::Prefill);
    let second = async {
        let error = second.await.expect_err("the first hangs");
        assert!(matches!(error, LinkError::Deadline { deadline: CONNECT, .. }), "{error}");
        gate.through.add_permits(1);
    };
    let (opened, ()) = tokio::join!(biased; first, second);
    opened.expect("it was let through at last");
}

#[tokio::test]
async fn a_dead_connection_is_replaced_once() {
    let (gate, connections, there) = ends();
    let address = there.address().to_string();
    gate.through.add_permits(1);
    let stream = connections.open(&address, Conversation::Prefill).await.expect("opened");
    let accepted = there.accept().await.expect("it was made");
    accepted.close("gone");
    drop(stream);
    let opens = (0..8).map(|_| connections.open(&address, Conversation::Prefill));
    let (opened, ()) = tokio::join!(join_all(opens), async { gate.through.add_permits(8) });
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(gate.attempts(), 2);
}
