//! The guest: carries its node's records to the host, and what the host tells into the small store
//! that its node watches.

use std::{collections::BTreeSet, sync::Arc};

use troupe_runtime::{
    discovery::{Op, Registry, RegistryError, Txn, WatchEvent, keys::Keys},
    transport::{Connection, Conversation, FrameReceiver, FrameSender, LinkError, Stream},
    wire::guest::{Arrival, GuestDown, GuestUp, Record},
};

use super::{FIRST_FRAME, SEND_DEADLINE, host::is_own};

/// A guest, before and between its visits.
pub struct Guest {
    /// The store that its node watches.
    pub registry: Arc<dyn Registry>,
    /// Its keys, which are the host's too.
    pub keys: Keys,
    /// How it introduces itself.
    pub arrival: Arrival,
}

/// How a visit ended.
#[derive(Debug, thiserror::Error)]
pub enum Parted {
    /// It was never let in and never will be.
    #[error("the leader turns this pod away: {0}")]
    Refused(String),
    /// It was not let in yet.
    #[error("the leader does not take this pod yet: {0}")]
    Later(String),
    /// The host is gone, or out of reach.
    #[error("the leader is gone")]
    Lost(#[from] LinkError),
    /// Its own store does not work.
    #[error(transparent)]
    Store(#[from] RegistryError),
}

impl Guest {
    /// Visits the host at the other end until one of both is gone; says so once it was let in.
    pub async fn visit(
        &self,
        connection: Arc<dyn Connection>,
        let_in: impl FnOnce() + Send,
    ) -> Parted {
        let parted = self.stay(connection.as_ref(), let_in).await;
        connection.close("the visit is over");
        match parted {
            Ok(()) => Parted::Lost(LinkError::Ended),
            Err(parted) => parted,
        }
    }

    async fn stay(
        &self,
        connection: &dyn Connection,
        let_in: impl FnOnce() + Send,
    ) -> Result<(), Parted> {
        let stream = connection.open(Conversation::Guest, SEND_DEADLINE).await?;
        let Stream { mut sender, mut receiver } = stream;
        sender.send(&GuestUp::Arrive(self.arrival.clone()), SEND_DEADLINE).await?;
        // Whatever comes first says whether it was let in.
        let first = receiver.expect::<GuestDown>(FIRST_FRAME).await?;
        let mut told = Told::default();
        self.take(first, &mut told).await?;
        let_in();
        tokio::select! {
            ended = self.tell(sender) => ended,
            ended = self.hear(receiver, told) => ended,
        }
    }

    /// The report of its members goes first: it says which epochs this host has seen, which the
    /// controller has to know before it plans anything here.
    async fn tell(&self, mut sender: FrameSender) -> Result<(), Parted> {
        let own = |key: &str| is_own(&self.keys, self.arrival.node, key);
        let status = self.registry.get(&self.keys.node_status(self.arrival.node)).await?;
        let mut watch = self.registry.watch(self.keys.root()).await?;
        if let Some(entry) = status {
            let record = Record { key: entry.key, value: entry.value };
            sender.send(&GuestUp::Put(record), SEND_DEADLINE).await?;
        }
        while let Some(event) = watch.next().await {
            let up = match event {
                WatchEvent::Put(entry) if own(&entry.key) => {
                    GuestUp::Put(Record { key: entry.key, value: entry.value })
                }
                WatchEvent::Delete(key) if own(&key) => GuestUp::Delete(key),
                _ => continue,
            };
            sender.send(&up, SEND_DEADLINE).await?;
        }
        Ok(())
    }

    async fn hear(&self, mut receiver: FrameReceiver, mut told: Told) -> Result<(), Parted> {
        while let Some(down) = receiver.next().await? {
            self.take(down, &mut told).await?;
        }
        Ok(())
    }

    async fn take(&self, down: GuestDown, told: &mut Told) -> Result<(), Parted> {
        match down {
            GuestDown::Put(Record { key, value }) => {
                told.keys.insert(key.clone());
                self.write(Op::Put(key, value)).await
            }
            GuestDown::Delete(key) => self.write(Op::Delete(key)).await,
            GuestDown::Synced => self.forget_all_but(&std::mem::take(told).keys).await,
            GuestDown::Later(why) => Err(Parted::Later(why)),
            GuestDown::Refused(why) => Err(Parted::Refused(why)),
        }
    }

    /// What an earlier visit told and this one did not is no longer true.
    async fn forget_all_but(&self, told: &BTreeSet<String>) -> Result<(), Parted> {
        let mine = self.keys.node_status(self.arrival.node);
        for prefix in [self.keys.groups(), self.keys.node_statuses()] {
            for entry in self.registry.list(&prefix).await? {
                if entry.key != mine && !told.contains(&entry.key) {
                    self.write(Op::Delete(entry.key)).await?;
                }
            }
        }
        Ok(())
    }

    async fn write(&self, op: Op) -> Result<(), Parted> {
        // Nothing is compared, so it cannot fail to hold.
        self.registry.commit(Txn { compare: vec![], then: vec![op] }).await?;
        Ok(())
    }
}

/// What was told since the guest arrived, until everything was.
#[derive(Default)]
struct Told {
    keys: BTreeSet<String>,
}
