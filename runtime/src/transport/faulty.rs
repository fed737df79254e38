//! A link that fails on purpose: a seeded wrapper around any carrier.
//!
//! The carriers are reliable, so a network's faults appear here as their users meet them: frames
//! come late (and so conversations overtake each other), stall, or end in a reset; connections
//! break; two hosts lose sight of each other and, after a silence as long as QUIC's idle limit,
//! hold each other for dead; a process crashes, which its own handles learn at once and its peers
//! by silence. All of it is controlled while it runs, through a [`Faults`] handle.
//!
//! What a seed promises: the fate and the delay of the n-th frame of the m-th conversation, as its
//! side opened or accepted them, of the k-th connection between two hosts in the order they made
//! them. Each conversation draws from a generator of its own, so neither threads nor timing change
//! what is drawn. Partitions and crashes are the caller's, when it calls.

mod connection;
mod plan;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{connection::FaultyConnection, plan::Plan};
use super::{Class, Connection, Link, LinkError, PeerAddr};
use crate::id::NodeId;

pub use self::plan::FaultProfile;

/// The hand on all the faults of one simulated network. Clones are the same hand.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Plan>);

/// A link whose peers, connections and conversations fail as a [`Faults`] says.
pub struct FaultyLink {
    inner: Arc<dyn Link>,
    node: NodeId,
    plan: Arc<Plan>,
}

// === impl Faults ===

impl Faults {
    /// Nothing fails until something is set.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Plan::new(seed)))
    }

    /// Puts a process's link under these faults. `node` is its host's name in every other call, and
    /// must be the one that its peers see.
    pub fn wrap(&self, link: Arc<dyn Link>, node: NodeId) -> Arc<FaultyLink> {
        self.0.change(|state| state.introduce(link.address(), node));
        Arc::new(FaultyLink { inner: link, node, plan: self.0.clone() })
    }

    /// What happens to frames from now on.
    pub fn set(&self, profile: FaultProfile) {
        self.0.change(|state| state.profile = profile);
    }

    /// Neither host hears the other any more. What was under way waits: it arrives if the cut is
    /// repaired before both hold each other for dead.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.0.change(|state| {
            state.cut(a, b);
            state.cut(b, a);
        });
    }

    /// `to` no longer hears `from`, but is heard.
    pub fn partition_one_way(&self, from: NodeId, to: NodeId) {
        self.0.change(|state| state.cut(from, to));
    }

    /// Both hear each other again.
    pub fn repair(&self, a: NodeId, b: NodeId) {
        self.0.change(|state| {
            state.mend(a, b);
            state.mend(b, a);
        });
    }

    /// The process ends between two instructions: its handles fail, its peers hear nothing more.
    pub fn crash(&self, node: NodeId) {
        self.0.change(|state| state.crash(node));
    }

    /// The process runs again. Connections of its former life are over at once on both sides.
    pub fn revive(&self, node: NodeId) {
        self.0.change(|state| state.revive(node));
    }
}

// === impl FaultyLink ===

#[async_trait]
impl Link for FaultyLink {
    fn address(&self) -> PeerAddr {
        self.inner.address()
    }

    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        let connecting = async {
            if let Some(to) = self.plan.read(|state| state.node_at(peer)) {
                self.plan.until_heard(self.node, to).await.map_err(|why| {
                    LinkError::Unreachable { peer: peer.clone(), why: why.into() }
                })?;
            }
            self.inner.connect(peer, class, deadline).await
        };
        let connection = tokio::time::timeout(deadline, connecting)
            .await
            .map_err(|_| LinkError::Deadline { what: "connecting", deadline })??;
        Ok(self.under_faults(connection))
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        loop {
            let connection = self.inner.accept().await?;
            if !self.plan.read(|state| state.is_down(self.node)) {
                return Some(self.under_faults(connection));
            }
        }
    }

    async fn close(&self, reason: &str) {
        self.inner.close(reason).await;
    }
}

impl FaultyLink {
    fn under_faults(&self, connection: Arc<dyn Connection>) -> Arc<dyn Connection> {
        let route =
            self.plan.change(|state| state.number_connection(self.node, connection.peer().node));
        Arc::new(FaultyConnection::new(connection, self.plan.clone(), route))
    }
}

impl fmt::Debug for FaultyLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyLink({:?})", self.inner)
    }
}
