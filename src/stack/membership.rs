//! A process's part in a cluster: its way to the store, and the lease that its records stand under.
//!
//! Whoever comes first makes the store's incarnation and writes the CA's digest; everybody after
//! that checks that its own CA is the one.

use std::{path::Path, sync::Arc, time::Duration};

use troupe_actors::controller::plan::Timing;
use troupe_runtime::{
    discovery::{
        Compare, Lease, Op, Registry, RegistryError, Txn,
        embedded::EmbeddedRegistry,
        etcd::{EtcdConfig, EtcdRegistry},
        keys::Keys,
    },
    id::NodeId,
    transport::tls::Identity,
};

use super::inventory;
use crate::cli::Failure;

/// The store of a cluster and what a process holds in it.
pub(crate) struct Membership {
    /// The store.
    pub(crate) registry: Arc<dyn Registry>,
    /// Its keys.
    pub(crate) keys: Keys,
    /// Under which this process's records stand.
    pub(crate) lease: Arc<dyn Lease>,
    /// How long the controller waits for what.
    pub(crate) timing: Timing,
    /// Whether the store answered at the start.
    pub(crate) reached: bool,
}

impl Membership {
    /// A store of this process's own.
    pub(crate) async fn embedded() -> Result<Self, Failure> {
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::new());
        let timing = Timing { lease: LEASE, settle: Duration::ZERO };
        Self::in_registry(registry, Keys::new("local"), timing).await
    }

    /// The store that etcd holds, of the cluster that this identity belongs to.
    pub(crate) async fn etcd(endpoints: &[String], identity: &Identity) -> Result<Self, Failure> {
        let registry = EtcdRegistry::new(EtcdConfig::new(endpoints))
            .await
            .map_err(|error| Failure::usage(error.to_string()))?;
        let keys = Keys::new(&identity.name().cluster);
        check_authority(&registry, &keys, identity).await?;
        let timing = Timing { lease: LEASE, settle: LEASE };
        Self::in_registry(Arc::new(registry), keys, timing).await
    }

    /// The same for a process that can begin with what it last knew. If etcd is away it takes part
    /// as soon as etcd is back; whose cluster this is was looked at when it learned what it knows.
    pub(crate) async fn etcd_or_later(
        endpoints: &[String],
        identity: &Identity,
    ) -> Result<Self, Failure> {
        let registry = EtcdRegistry::new(EtcdConfig::new(endpoints))
            .await
            .map_err(|error| Failure::usage(error.to_string()))?;
        let keys = Keys::new(&identity.name().cluster);
        match registry.get(&keys.authority()).await {
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::ReadOnly { .. })) => {
                tracing::warn!(%error, "start with what was last known of the cluster");
                let lease = registry.lease_late(LEASE, &keys.incarnation());
                let timing = Timing { lease: LEASE, settle: LEASE };
                let registry = Arc::new(registry);
                Ok(Self { registry, keys, lease, timing, reached: false })
            }
            Ok(_) | Err(_) => Self::etcd(endpoints, identity).await,
        }
    }

    /// Refuses an identity that another data directory has too, or that is not to come back.
    pub(crate) async fn check_in(&self, id: NodeId, data_dir: &Path) -> Result<(), Failure> {
        let Self { registry, keys, lease, .. } = self;
        if registry.get(&keys.revoked(id)).await.map_err(failed)?.is_some() {
            return Err(Failure::usage(format!(
                "this host was taken out of the cluster: its identity {id} is revoked. To bring it \
                 back, join it with an empty --data-dir and a new token"
            )));
        }
        let home = inventory::home(data_dir)
            .map_err(|error| Failure::usage(format!("{}: {error}", data_dir.display())))?;
        if lease.claim(&keys.home(id), home.into_bytes()).await.map_err(failed)? {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "another host runs with this one's identity {id}: {} is a copy of its data directory. \
             Join this host with an empty --data-dir and a token of its own; if the directory was \
             moved, the other process has to be gone for some seconds",
            data_dir.display()
        )))
    }

    /// A lease to hold the controller's office under. It is a short one: until it runs out nobody
    /// follows a controller that was killed.
    pub(crate) async fn office(&self) -> Result<Arc<dyn Lease>, Failure> {
        self.registry.lease(OFFICE, &self.keys.incarnation()).await.map_err(failed)
    }

    async fn in_registry(
        registry: Arc<dyn Registry>,
        keys: Keys,
        timing: Timing,
    ) -> Result<Self, Failure> {
        let lease = registry.lease(LEASE, &keys.incarnation()).await.map_err(failed)?;
        Ok(Self { registry, keys, lease, timing, reached: true })
    }
}

/// Refuses a CA that the cluster of this name was not formed with. Its processes could see each
/// other in etcd, but none would let the other in, and every group over both would fail to form.
async fn check_authority(
    registry: &dyn Registry,
    keys: &Keys,
    identity: &Identity,
) -> Result<(), Failure> {
    let (key, mine) = (keys.authority(), identity.ca_digest().to_string().into_bytes());
    for _ in 0..RACES {
        let life = registry.incarnation(&keys.incarnation()).await.map_err(failed)?;
        match registry.get(&key).await.map_err(failed)? {
            Some(stored) if stored.value == mine => return Ok(()),
            Some(_) => {
                return Err(Failure::usage(format!(
                    "the cluster {} was formed with another CA than this host has an identity of; \
                     join it with a token of one of its control hosts and an empty --data-dir, or \
                     form a cluster of your own with --cluster NAME",
                    identity.name().cluster
                )));
            }
            None => {
                let first = Txn {
                    compare: vec![life.compare(), Compare::Absent(key.clone())],
                    then: vec![Op::Put(key.clone(), mine.clone())],
                };
                if registry.commit(first).await.map_err(failed)? {
                    return Ok(());
                }
                // Another process was faster, or the store was wiped under us: look again.
            }
        }
    }
    Err(busy(&key))
}

/// A request to the store that failed, as a process's end.
pub(super) fn failed(error: RegistryError) -> Failure {
    Failure::run(error.to_string())
}

/// A key that others change whenever it was looked at.
pub(super) fn busy(key: &str) -> Failure {
    Failure::run(format!("{key} is written by others all the time; try again"))
}

/// How often others may change a key between our look and our write.
pub(super) const RACES: usize = 5;

/// How long the controller's office outlives it: the least that etcd grants as it is set up by
/// default.
const OFFICE: Duration = Duration::from_secs(2);
/// How long this process's records outlive it.
const LEASE: Duration = Duration::from_secs(3);
