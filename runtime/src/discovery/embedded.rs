//! The registry of one process: no server, no files, the same contract as etcd.
//!
//! `troupe up` on one machine and every cluster test stand on it. The data is a plain core
//! ([`data`]) behind a mutex; each [`EmbeddedRegistry`] is one client of it, and can be cut off
//! from it like a host from its network, so that tests can lose a host without losing the store.

pub(super) mod data;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use self::data::{Data, Since};
use super::{
    Entry, Incarnation, RegistryError, Txn,
    backed::Backed,
    store::{Broken, Change, Changes, Held, Hold, LeaseId, Released, Renewed, Stand, Store},
};

/// A client of a store in this process.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    store: EmbeddedStore,
    watches: Mutex<JoinSet<()>>,
}

/// The store, as one client reaches it.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Whether this client reaches the store.
    reachable: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Shared {
    data: Mutex<Data>,
    /// Lease times count from here, so that the core sees durations only.
    origin: Instant,
    /// Marked after each write.
    written: watch::Sender<()>,
}

// === impl EmbeddedRegistry ===

impl Default for EmbeddedRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl EmbeddedRegistry {
    /// An empty store and its first client.
    pub fn new() -> Self {
        let shared = Shared {
            data: Mutex::default(),
            origin: Instant::now(),
            written: watch::Sender::new(()),
        };
        Self::client_of(Arc::new(shared))
    }

    /// Another client of the same store, which can be cut off by itself.
    pub fn connect(&self) -> Self {
        Self::client_of(self.store.shared.clone())
    }

    /// Cuts this client off from the store, or joins it again: its requests fail, its watches say
    /// `Disconnected`, and its leases run out.
    pub fn set_reachable(&self, reachable: bool) {
        self.store.reachable.send_replace(reachable);
    }

    /// Loses everything, leases too, as a store does whose disk was replaced.
    pub fn wipe(&self) {
        self.store.shared.data().wipe();
        self.store.shared.written.send_replace(());
    }

    fn client_of(shared: Arc<Shared>) -> Self {
        let store = EmbeddedStore { shared, reachable: Arc::new(watch::Sender::new(true)) };
        Self { store, watches: Mutex::default() }
    }
}

impl Backed for EmbeddedRegistry {
    type Store = EmbeddedStore;

    fn store(&self) -> &EmbeddedStore {
        &self.store
    }

    fn watches(&self) -> &Mutex<JoinSet<()>> {
        &self.watches
    }
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// One request: fails while cut off, and tells everybody if it wrote.
    fn request<T>(
        &self,
        ask: impl FnOnce(&mut Data, Duration) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if !*self.reachable.borrow() {
            return Err(unreachable());
        }
        let now = self.shared.origin.elapsed();
        let (answer, wrote) = {
            let mut data = self.shared.data();
            let before = data.revision();
            data.expire(now);
            (ask(&mut data, now), data.revision() != before)
        };
        if wrote {
            self.shared.written.send_replace(());
        }
        answer
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    type Changes = EmbeddedChanges;
    type Renewal = ();

    fn request_timeout(&self) -> Duration {
        // Nothing here ever waits; this only bounds the queue before a lease's keeper.
        Duration::from_secs(3)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.request(|data, _| Ok(data.get(key)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError> {
        self.request(|data, _| Ok(data.list(prefix)))
    }

    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError> {
        self.request(|data, _| data.commit(txn))
    }

    async fn open(&self, prefix: &str) -> Result<(Vec<Entry>, EmbeddedChanges), RegistryError> {
        // Subscribed before the list is taken: a write between the two is seen, not slept through.
        let written = self.shared.written.subscribe();
        let reachable = self.reachable.subscribe();
        let (entries, read_to) =
            self.request(|data, _| Ok((data.list(prefix), data.position())))?;
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        Ok((entries, EmbeddedChanges { shared, prefix, read_to, written, reachable }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.request(|data, now| Ok(data.grant(ttl, now)))
    }

    async fn renew(&self, _: &mut (), lease: LeaseId) -> Result<Renewed, RegistryError> {
        self.request(|data, now| {
            Ok(if data.renew(lease, now) { Renewed::Kept } else { Renewed::Lost })
        })
    }

    async fn ensure(
        &self,
        lease: LeaseId,
        hold: &Hold,
        life: &Incarnation,
    ) -> Result<Held, RegistryError> {
        self.request(|data, _| data.ensure(lease, hold, life))
    }

    async fn release(
        &self,
        lease: LeaseId,
        key: &str,
        life: &Incarnation,
    ) -> Result<Released, RegistryError> {
        self.request(|data, _| Ok(data.release(lease, key, life)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.request(|data, _| {
            data.revoke(lease);
            Ok(())
        })
    }
}

// === impl Shared ===

impl Shared {
    fn data(&self) -> MutexGuard<'_, Data> {
        // The core panics on broken invariants only, before it has changed anything.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of the store's history.
#[derive(Debug)]
pub(super) struct EmbeddedChanges {
    shared: Arc<Shared>,
    prefix: String,
    read_to: data::Position,
    written: watch::Receiver<()>,
    reachable: watch::Receiver<bool>,
}

#[async_trait]
impl Changes for EmbeddedChanges {
    async fn next(&mut self) -> Result<Vec<Change>, Broken> {
        loop {
            if !*self.reachable.borrow_and_update() {
                return Err(Broken::Away(unreachable().to_string()));
            }
            self.written.borrow_and_update();
            let expiry = {
                let mut data = self.shared.data();
                data.expire(self.shared.origin.elapsed());
                match data.since(self.read_to, &self.prefix) {
                    Since::Gone => return Err(Broken::Behind),
                    Since::Changes(changes, position) => {
                        self.read_to = position;
                        if !changes.is_empty() {
                            return Ok(changes);
                        }
                    }
                }
                data.next_expiry()
            };
            // Nobody else would notice that a lease ran out: each reader wakes for it itself.
            let ran_out = async {
                match expiry {
                    Some(at) => tokio::time::sleep_until(self.shared.origin + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Both senders live as long as their stores; a closed channel is a store gone.
                changed = self.written.changed() => changed.map_err(|_| Broken::Behind)?,
                changed = self.reachable.changed() => changed.map_err(|_| Broken::Behind)?,
                () = ran_out => {}
            }
        }
    }

    fn stand(&self) -> Stand {
        self.read_to.stand()
    }
}

fn unreachable() -> RegistryError {
    RegistryError::Unreachable {
        endpoints: "this process (embedded)".into(),
        why: "this client was cut off".into(),
    }
}
