//! A record that says that a part of this process is there, for as long as it is.
//!
//! Taken away when the part is told to end, so that others stop counting on it while it finishes
//! what it has begun, and at the latest when it is dropped. If neither works (the store is away,
//! the process is killed), it goes with the lease.

use std::sync::Arc;

use tokio::{runtime::Handle, task::JoinHandle};
use troupe_runtime::{
    discovery::{Lease, RegistryError},
    shutdown::Shutdown,
};

use super::membership::failed;
use crate::cli::Failure;

/// A record that goes when this is dropped, or when the shutdown begins.
pub(crate) struct Presence {
    record: Arc<Record>,
    at_shutdown: JoinHandle<()>,
}

struct Record {
    lease: Arc<dyn Lease>,
    key: String,
}

// === impl Presence ===

impl Presence {
    /// Puts the record under the process's lease.
    pub(crate) async fn put(
        lease: &Arc<dyn Lease>,
        key: String,
        value: Vec<u8>,
        mut shutdown: Shutdown,
    ) -> Result<Self, Failure> {
        match lease.put(&key, value).await {
            Ok(()) => {}
            // It is there as soon as the store is.
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::ReadOnly { .. })) => {
                tracing::warn!(key, %error, "this process cannot be found yet");
            }
            Err(error) => return Err(failed(error)),
        }
        let record = Arc::new(Record { lease: lease.clone(), key });
        let at_shutdown = {
            let record = record.clone();
            tokio::spawn(async move {
                shutdown.begun().await;
                record.delete().await;
            })
        };
        Ok(Self { record, at_shutdown })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.at_shutdown.is_finished() {
            return;
        }
        self.at_shutdown.abort();
        // Nothing waits for it: what cannot be deleted any more goes with the lease.
        if let Ok(runtime) = Handle::try_current() {
            let record = self.record.clone();
            runtime.spawn(async move { record.delete().await });
        }
    }
}

impl Record {
    /// Within the lease's own patience.
    async fn delete(&self) {
        if let Err(error) = self.lease.delete(&self.key).await {
            tracing::debug!(key = self.key, %error, "take a record away; it goes with its lease");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use troupe_runtime::{
        discovery::{Registry, WatchEvent, embedded::EmbeddedRegistry},
        shutdown::shutdown,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_when_its_owner_is_told_to_end_or_is_dropped() {
        let registry = EmbeddedRegistry::new();
        let ttl = Duration::from_secs(3);
        let lease = registry.lease(ttl, "incarnation").await.expect("it is granted");
        let mut watch = registry.watch("gateways/").await.expect("it can be watched");
        assert_eq!(watch.next().await, Some(WatchEvent::Synced));
        for told in [true, false] {
            let (owner, listener) = shutdown();
            let put = Presence::put(&lease, "gateways/g".into(), b"here".to_vec(), listener);
            let presence = put.await.unwrap_or_else(|_| panic!("it is put"));
            assert!(matches!(watch.next().await, Some(WatchEvent::Put(_))));
            if told {
                owner.begin();
                assert_eq!(watch.next().await, Some(WatchEvent::Delete("gateways/g".into())));
            }
            drop(presence);
            if !told {
                assert_eq!(watch.next().await, Some(WatchEvent::Delete("gateways/g".into())));
            }
        }
    }
}
