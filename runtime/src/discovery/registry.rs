//! The contract: a store with leases, transactions and watches without a gap.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Incarnation;

/// The store.
#[async_trait]
pub trait Registry: Send + Sync + fmt::Debug {
    /// One key.
    ///
    /// # Errors
    /// [`RegistryError`] within the registry's own request timeout.
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError>;

    /// Everything under a prefix, in key order.
    ///
    /// # Errors
    /// [`RegistryError`].
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError>;

    /// Writes all of `txn.then` if all of `txn.compare` holds, and says whether it did.
    ///
    /// # Errors
    /// [`RegistryError`]; then it is unknown whether the write happened, as with any network.
    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError>;

    /// What is under a prefix now and every change after, without a gap.
    ///
    /// Survives a restart, a compaction and a wipe of the store: it lists again by itself and emits
    /// the difference to what it had told before, so that whoever applies the events always ends
    /// with the store's content.
    ///
    /// # Errors
    /// [`RegistryError`] if the first list fails; later failures are retried for ever and told as
    /// [`WatchEvent::Disconnected`].
    async fn watch(&self, prefix: &str) -> Result<Watch, RegistryError>;

    /// The store's incarnation, which stands under `key`; made if there is none.
    ///
    /// # Errors
    /// [`RegistryError`].
    async fn incarnation(&self, key: &str) -> Result<Incarnation, RegistryError>;

    /// A lease of this length, kept alive until it is dropped. If the store forgets it (or was
    /// wiped) it is granted anew and everything put under it is put again. Each of its writes
    /// compares the incarnation under that key; where the store has another one by now, it is read
    /// again (or made) and everything put again.
    ///
    /// # Errors
    /// [`RegistryError`] if the first grant fails.
    async fn lease(
        &self,
        ttl: Duration,
        incarnation: &str,
    ) -> Result<Arc<dyn Lease>, RegistryError>;

    /// The same for a process that does not need the store to begin: what is put under it is there
    /// as soon as the store answers. Until then each put is an error, as [`Lease::put`] says.
    fn lease_late(&self, ttl: Duration, incarnation: &str) -> Arc<dyn Lease>;
}

/// Keys that vanish when their owner does. Dropping it revokes it in the background.
#[async_trait]
pub trait Lease: Send + Sync + fmt::Debug {
    /// Puts a key under the lease; put again whenever the lease has to be granted anew.
    ///
    /// # Errors
    /// [`RegistryError`] if the first put fails; it stays owned and is retried all the same.
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), RegistryError>;

    /// Puts a key under the lease if it is absent or has this very value already, and says whether
    /// it is now ours. For names: after a wipe it is claimed again, and if another
    /// was faster it is no longer ours, which [`Lease::holds`] then says.
    ///
    /// # Errors
    /// [`RegistryError`]; then it is not ours.
    async fn claim(&self, key: &str, value: Vec<u8>) -> Result<bool, RegistryError>;

    /// The same for one term of an office, with a value that no other term has. It ends when the
    /// key is lost, however short: whoever holds it again has missed what another did meanwhile,
    /// and must know that. What an earlier term of this lease left there goes first.
    ///
    /// # Errors
    /// [`RegistryError`]; then it is not ours.
    async fn claim_term(&self, key: &str, value: Vec<u8>) -> Result<bool, RegistryError>;

    /// Whether a claimed key was ours when the store last confirmed it.
    fn holds(&self, key: &str) -> bool;

    /// Deletes a key that was put under it.
    ///
    /// # Errors
    /// [`RegistryError`].
    async fn delete(&self, key: &str) -> Result<(), RegistryError>;

    /// Ends it now: its keys are gone when this returns.
    ///
    /// # Errors
    /// [`RegistryError`]; the keys then go when the ttl has passed.
    async fn revoke(&self) -> Result<(), RegistryError>;

    /// How long since the store last confirmed it: an owner fences itself when this passes the ttl.
    fn since_confirmed(&self) -> Duration;
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full key.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Grows with each write of this key, from 1; only for comparing, and only within one life of
    /// the store.
    pub version: i64,
}

/// A transaction: at most 128 operations, as etcd allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Then all are done.
    pub then: Vec<Op>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key has this value.
    Value(String, Vec<u8>),
    /// The key has this version.
    Version(String, i64),
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key for good.
    Put(String, Vec<u8>),
    /// Removes a key.
    Delete(String),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was written, or was there at the start.
    Put(Entry),
    /// A key is gone.
    Delete(String),
    /// Everything that was there at the start (or at a new list) has been told.
    Synced,
    /// The store does not answer; what was told may be old. Followed by changes and `Synced` later.
    Disconnected(String),
    /// The store has lost something: it was wiped, or restored from a backup. What follows up to
    /// `Synced` is what that made of its content, and nobody's word.
    Rewound,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: tokio::sync::mpsc::Receiver<WatchEvent>,
}

impl Watch {
    /// Wraps the receiving end that an implementation feeds.
    pub(crate) fn new(events: tokio::sync::mpsc::Receiver<WatchEvent>) -> Self {
        Self { events }
    }

    /// The next event. Safe to cancel. `None` only when the registry itself was shut down.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

/// Why the store could not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// No member of it answers.
    #[error("etcd at {endpoints} does not answer: {why}")]
    Unreachable {
        /// Where it was sought.
        endpoints: String,
        /// What happened.
        why: String,
    },
    /// It answers but takes no writes (out of space, no quorum).
    #[error("etcd at {endpoints} takes no writes: {why}")]
    ReadOnly {
        /// Where.
        endpoints: String,
        /// NOSPACE alarm, no leader.
        why: String,
    },
    /// It refused this request.
    #[error("etcd refused the request: {0}")]
    Refused(String),
    /// A transaction is too large.
    #[error("a transaction of {0} operations, at most 128 are possible")]
    TooManyOperations(usize),
}
