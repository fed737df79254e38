//! The host: keeps the records of each guest in its store for as long as the guest is here, and
//! tells it what all hosts read.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use troupe_runtime::{
    discovery::{Lease, Registry, RegistryError, WatchEvent, keys::Keys},
    id::NodeId,
    transport::{FrameReceiver, FrameSender, LinkError, PeerIdentity, Stream},
    wire::guest::{Arrival, GuestDown, GuestUp, Record},
};

use super::{FIRST_FRAME, SEND_DEADLINE, admission::Admission};
use crate::host::door::Desk;

/// What guests share.
pub struct Host {
    /// The store, and its keys.
    pub registry: Arc<dyn Registry>,
    /// The group's keys.
    pub keys: Keys,
    /// Who may arrive, and who is here.
    pub admission: Mutex<Admission>,
}

/// Why a visit is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Store(#[from] RegistryError),
    #[error("it spoke out of turn")]
    OutOfTurn,
    #[error("it may not write {0}")]
    NotIts(String),
    #[error("the store is gone")]
    StoreGone,
}

#[async_trait]
impl Desk for Host {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = self.visit(stream).await {
            tracing::info!(%error, %peer, "a guest is gone");
        }
    }
}

impl Host {
    /// Pods that have not arrived.
    pub fn missing(&self) -> Vec<u32> {
        self.admission().missing()
    }

    async fn visit(&self, stream: Stream) -> Result<(), Over> {
        let Stream { mut sender, mut receiver } = stream;
        let GuestUp::Arrive(arrival) = receiver.expect(FIRST_FRAME).await? else {
            return Err(Over::OutOfTurn);
        };
        // Its own statement, so that the lock is not held while an answer is sent.
        let admitted = self.admission().admit(&arrival);
        if let Err(answer) = admitted {
            tracing::warn!(index = arrival.index, ?answer, "a pod is turned away");
            sender.send(&answer, SEND_DEADLINE).await?;
            return Ok(sender.finish()?);
        }
        let seat = Seat { host: self, index: arrival.index };
        tracing::info!(index = arrival.index, "a guest is here");
        let lease = self.registry.lease(LEASE, &self.keys.incarnation()).await?;
        let ended = tokio::select! {
            ended = self.tell(&arrival, sender) => ended,
            ended = self.hear(&arrival, receiver, lease.as_ref()) => ended,
        };
        // At once, not when the lease runs out: it may be back in a moment as another process.
        lease.revoke().await?;
        drop(seat);
        ended
    }

    /// What all hosts read: groups, and where members listen.
    async fn tell(&self, arrival: &Arrival, mut sender: FrameSender) -> Result<(), Over> {
        let (groups, statuses) = (self.keys.groups(), self.keys.node_statuses());
        let own = self.keys.node_status(arrival.node);
        let concerns =
            |key: &str| (key.starts_with(&groups) || key.starts_with(&statuses)) && key != own;
        let mut watch = self.registry.watch(self.keys.root()).await?;
        while let Some(event) = watch.next().await {
            let down = match event {
                WatchEvent::Put(entry) if concerns(&entry.key) => {
                    GuestDown::Put(Record { key: entry.key, value: entry.value })
                }
                WatchEvent::Delete(key) if concerns(&key) => GuestDown::Delete(key),
                WatchEvent::Synced => GuestDown::Synced,
                _ => continue,
            };
            sender.send(&down, SEND_DEADLINE).await?;
        }
        Err(Over::StoreGone)
    }

    /// What the guest writes of itself.
    async fn hear(
        &self,
        arrival: &Arrival,
        mut receiver: FrameReceiver,
        lease: &dyn Lease,
    ) -> Result<(), Over> {
        while let Some(up) = receiver.next().await? {
            match up {
                GuestUp::Put(Record { key, .. }) | GuestUp::Delete(key)
                    if !is_own(&self.keys, arrival.node, &key) =>
                {
                    return Err(Over::NotIts(key));
                }
                GuestUp::Put(Record { key, value }) => lease.put(&key, value).await?,
                GuestUp::Delete(key) => lease.delete(&key).await?,
                GuestUp::Arrive(_) => return Err(Over::OutOfTurn),
            }
        }
        Ok(())
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's place, free again when this is dropped.
struct Seat<'a> {
    host: &'a Host,
    index: u32,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.host.admission().part(self.index);
    }
}

/// Whether a key is one that this host writes and no other: what it is, how its members are, and
/// the endpoints that it leads.
pub(super) fn is_own(keys: &Keys, node: NodeId, key: &str) -> bool {
    key == keys.node(node) || key == keys.node_status(node) || key.starts_with(&keys.endpoints())
}

/// The store is in this process, so a lease only ends with its guest.
const LEASE: Duration = Duration::from_secs(3);
