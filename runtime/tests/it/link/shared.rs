//! A link whose conversations take their tensors through shared memory, in both directions, for the
//! contract: each is made of two conversations of the link below, one for each direction.

use async_trait::async_trait;
use troupe_runtime::transport::{
    Conversation, LinkError, PeerAddr, Stream,
    shm::{self, Ring},
};

use super::*;

/// Few and short places, so that they are used over and over and longer tensors go past them.
const RING: Option<Ring> = Some(Ring { slots: 4, slot_bytes: 2 << 20 });

/// Two links over memory; what is not in it goes over QUIC.
pub(super) fn shared(a: PeerRole, b: PeerRole) -> Pair {
    let inner = quic(a, b);
    Pair { a: Arc::new(Shared(inner.a)), b: Arc::new(Shared(inner.b)), _keep: inner._keep }
}

#[derive(Debug)]
struct Shared(Arc<dyn Link>);

#[derive(Debug)]
struct Both(Arc<dyn Connection>);

#[async_trait]
impl Link for Shared {
    fn address(&self) -> PeerAddr {
        self.0.address()
    }

    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        Ok(Arc::new(Both(self.0.connect(peer, class, deadline).await?)))
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        Some(Arc::new(Both(self.0.accept().await?)))
    }

    async fn close(&self, reason: &str) {
        self.0.close(reason).await;
    }
}

#[async_trait]
impl Connection for Both {
    fn peer(&self) -> &PeerIdentity {
        self.0.peer()
    }

    fn class(&self) -> Class {
        self.0.class()
    }

    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError> {
        let there = self.0.open(what, deadline).await?;
        let back = self.0.open(what, deadline).await?;
        let sender = shm::lend(there, RING, deadline).await?;
        Ok(Stream { sender, receiver: shm::borrow(back, RING) })
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        let (what, there) = self.0.accept().await?;
        let (_, back) = self.0.accept().await?;
        let receiver = shm::borrow(there, RING);
        Ok((what, Stream { sender: shm::lend(back, RING, LONG).await?, receiver }))
    }

    async fn closed(&self) -> LinkError {
        self.0.closed().await
    }

    fn close(&self, reason: &str) {
        self.0.close(reason);
    }
}
