//! A way to the store on which one write is overtaken: right before it another life of the store
//! begins, which the writer cannot have noticed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use troupe_runtime::discovery::{
    Entry, Incarnation, Lease, Op, Registry, RegistryError, Txn, Watch, embedded::EmbeddedRegistry,
};

#[derive(Debug)]
pub(crate) struct Overtaken {
    store: EmbeddedRegistry,
    /// The key of the store's incarnation.
    incarnation: String,
    happened: AtomicBool,
    /// The write that was overtaken was done all the same.
    pub(crate) was_done: AtomicBool,
}

impl Overtaken {
    pub(crate) fn on_the_way_to(store: &EmbeddedRegistry, incarnation: String) -> Arc<Self> {
        let (happened, was_done) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { store: store.connect(), incarnation, happened, was_done })
    }

    pub(crate) fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Registry for Overtaken {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError> {
        self.store.list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError> {
        if self.happened.swap(true, Ordering::SeqCst) {
            return self.store.commit(txn).await;
        }
        let another = Op::Put(self.incarnation.clone(), b"another".to_vec());
        self.store.commit(Txn { compare: vec![], then: vec![another] }).await?;
        let done = self.store.commit(txn).await?;
        self.was_done.store(done, Ordering::SeqCst);
        Ok(done)
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, RegistryError> {
        self.store.watch(prefix).await
    }

    async fn incarnation(&self, key: &str) -> Result<Incarnation, RegistryError> {
        self.store.incarnation(key).await
    }

    async fn lease(
        &self,
        ttl: Duration,
        incarnation: &str,
    ) -> Result<Arc<dyn Lease>, RegistryError> {
        self.store.lease(ttl, incarnation).await
    }

    fn lease_late(&self, ttl: Duration, incarnation: &str) -> Arc<dyn Lease> {
        self.store.lease_late(ttl, incarnation)
    }
}
