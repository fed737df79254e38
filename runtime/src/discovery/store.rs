//! `Store`: the little that a key-value store must do, so that everything hard is written once.
//!
//! A store answers single requests and opens one stream of changes; it never retries, keeps nothing
//! alive and remembers nothing. The [`watcher`](super::watcher) and the [`keeper`](super::keeper)
//! make of it what `Registry` promises, for every store in the same way.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{Entry, Incarnation, Op, RegistryError, Txn};
use crate::backoff::Backoff;

/// Operations in one transaction, compares and writes counted apart, as etcd counts them.
pub(super) const MAX_OPERATIONS: usize = 128;

/// A lease's number in its store.
pub(super) type LeaseId = i64;

/// Single requests; each ends within the store's own request timeout.
#[async_trait]
pub(super) trait Store: Clone + fmt::Debug + Send + Sync + 'static {
    /// A stream of changes.
    type Changes: Changes;
    /// What is kept between two renewals of one lease: a stream, or nothing.
    type Renewal: Default + Send + 'static;

    /// The longest that any single request takes.
    fn request_timeout(&self) -> Duration;

    /// One key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError>;

    /// Everything under a prefix, in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError>;

    /// A transaction; never sent twice unless the first surely did not arrive.
    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError>;

    /// What is under a prefix, and the stream of every change after it.
    async fn open(&self, prefix: &str) -> Result<(Vec<Entry>, Self::Changes), RegistryError>;

    /// A new lease.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError>;

    /// Another ttl for a lease.
    async fn renew(
        &self,
        renewal: &mut Self::Renewal,
        lease: LeaseId,
    ) -> Result<Renewed, RegistryError>;

    /// Makes sure that a key has this value under this lease in this life of the store; writes only
    /// if it has not.
    async fn ensure(
        &self,
        lease: LeaseId,
        hold: &Hold,
        life: &Incarnation,
    ) -> Result<Held, RegistryError>;

    /// Removes a key if it is under this lease in this life of the store.
    async fn release(
        &self,
        lease: LeaseId,
        key: &str,
        life: &Incarnation,
    ) -> Result<Released, RegistryError>;

    /// Ends a lease; its keys are gone then. One that is not there is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError>;
}

/// Changes under one prefix, in order and without a gap until it breaks.
#[async_trait]
pub(super) trait Changes: Send + 'static {
    /// The next changes; `Err` ends the stream.
    async fn next(&mut self) -> Result<Vec<Change>, Broken>;

    /// How far the store was when it was last heard of.
    fn stand(&self) -> Stand;
}

/// Which store answered, and how far it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) store: u64,
    /// Counts its changes.
    pub(super) revision: u64,
}

impl Stand {
    /// Whether a store that stood there before has lost something since. One that was wiped and has
    /// been filled beyond that again does not show it; its incarnation does.
    pub(super) fn went_back_from(self, before: Self) -> bool {
        self.store != before.store || self.revision < before.revision
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Written.
    Put(Entry),
    /// Removed.
    Delete(String),
}

/// Why a stream of changes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The store answers, but what came between is no longer to be had (compacted, wiped, restored,
    /// or the reader was too slow): list again.
    Behind,
    /// The store does not answer.
    Away(String),
}

/// What became of a lease that was to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// It lives on and so do its keys.
    Kept,
    /// It lives on, but the store was away: its keys need a look.
    Suspect,
    /// It lives on, but the store went back in time: what is under it is what was there before.
    Rewound,
    /// The store knows it no longer.
    Lost,
}

/// A key that is to be under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) by: By,
}

/// How a key comes under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Whatever was there.
    Put,
    /// Only if it was absent or had this very value.
    Claim,
    /// The same, but once it is lost it is not claimed again.
    Term,
    /// It was claimed so, and is ours for as long as it stands there unbroken.
    Kept,
}

// === impl By ===

impl By {
    /// Whether it is somebody else's, or nobody's, if this value (or none) is found there.
    pub(super) fn yields(self, found: Option<&[u8]>, ours: &[u8]) -> bool {
        match self {
            Self::Put => false,
            Self::Claim | Self::Term => found.is_some_and(|found| found != ours),
            Self::Kept => found != Some(ours),
        }
    }

    /// Whether it may be lost for good.
    pub(super) fn is_term(self) -> bool {
        matches!(self, Self::Term | Self::Kept)
    }
}

/// What became of a key that was to be under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is.
    Ours,
    /// It was to be claimed, and another has it.
    Theirs,
    /// There is no such lease.
    NoLease,
    /// The store has another incarnation, or none: nothing was written.
    OtherLife,
}

/// What became of a key that was to leave a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// It is not under the lease.
    Done,
    /// The store has another incarnation, or none: nothing was written.
    OtherLife,
}

/// What no store would take, refused before it is sent.
pub(super) fn check(txn: &Txn) -> Result<(), RegistryError> {
    let operations = txn.compare.len().max(txn.then.len());
    if operations > MAX_OPERATIONS {
        return Err(RegistryError::TooManyOperations(operations));
    }
    let mut written = std::collections::BTreeSet::new();
    for op in &txn.then {
        let key = match op {
            Op::Put(key, _) | Op::Delete(key) => key,
        };
        if key.is_empty() {
            return Err(RegistryError::Refused("a key is empty".into()));
        }
        if !written.insert(key) {
            return Err(RegistryError::Refused(format!("{key} is written twice in a transaction")));
        }
    }
    Ok(())
}

/// The spacing of tries while a store is away.
pub(super) const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(3) };
