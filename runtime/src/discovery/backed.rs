//! `Registry` for every client of a store: what a store promises to do once, done as the contract
//! wants it.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{
    Entry, Incarnation, Lease, Registry, RegistryError, Txn, Watch, incarnation, keeper,
    store::Store, watcher,
};

/// A client of a store.
pub(super) trait Backed: fmt::Debug + Send + Sync {
    /// The store.
    type Store: Store;

    /// As this client reaches it.
    fn store(&self) -> &Self::Store;

    /// The tasks of its watches, which end with it.
    fn watches(&self) -> &Mutex<JoinSet<()>>;
}

#[async_trait]
impl<B: Backed> Registry for B {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.store().get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError> {
        self.store().list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError> {
        self.store().commit(txn).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, RegistryError> {
        watcher::start(self.store().clone(), prefix, self.watches()).await
    }

    async fn incarnation(&self, key: &str) -> Result<Incarnation, RegistryError> {
        incarnation::open(self.store(), key).await
    }

    async fn lease(
        &self,
        ttl: Duration,
        incarnation: &str,
    ) -> Result<Arc<dyn Lease>, RegistryError> {
        keeper::start(self.store().clone(), ttl, incarnation).await
    }

    fn lease_late(&self, ttl: Duration, incarnation: &str) -> Arc<dyn Lease> {
        keeper::start_late(self.store().clone(), ttl, incarnation)
    }
}
