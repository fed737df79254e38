//! A process's part in a cluster: its way to the store, and the lease that its records stand under.
//!
//! Whoever comes first makes the store's incarnation and writes the CA's digest; everybody after
//! that checks that its own CA is the one.

use std::{sync::Arc, time::Duration};

use troupe_actors::controller::plan::Timing;
use troupe_runtime::{
    discovery::{
        Compare, Lease, Op, Registry, RegistryError, Txn,
        embedded::EmbeddedRegistry,
        etcd::{EtcdConfig, EtcdRegistry},
        keys::Keys,
    },
    transport::tls::ClusterAuthority,
};

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
}

impl Membership {
    /// A store of this process's own.
    pub(crate) async fn embedded() -> Result<Self, Failure> {
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::new());
        let timing = Timing { lease: LEASE, settle: Duration::ZERO };
        Self::in_registry(registry, Keys::new("local"), timing).await
    }

    /// The store that etcd holds, of the cluster that this CA belongs to.
    pub(crate) async fn etcd(
        endpoints: &[String],
        authority: &ClusterAuthority,
    ) -> Result<Self, Failure> {
        let registry = EtcdRegistry::new(EtcdConfig::new(endpoints))
            .await
            .map_err(|error| Failure::usage(error.to_string()))?;
        let keys = Keys::new(authority.cluster());
        check_authority(&registry, &keys, authority).await?;
        let timing = Timing { lease: LEASE, settle: LEASE };
        Self::in_registry(Arc::new(registry), keys, timing).await
    }

    /// The same for a process that can begin with what it last knew. If etcd is away it takes part
    /// as soon as etcd is back; whose cluster this is was looked at when it learned what it knows.
    pub(crate) async fn etcd_or_later(
        endpoints: &[String],
        authority: &ClusterAuthority,
    ) -> Result<Self, Failure> {
        let registry = EtcdRegistry::new(EtcdConfig::new(endpoints))
            .await
            .map_err(|error| Failure::usage(error.to_string()))?;
        let keys = Keys::new(authority.cluster());
        match registry.get(&keys.authority()).await {
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::ReadOnly { .. })) => {
                tracing::warn!(%error, "start with what was last known of the cluster");
                let lease = registry.lease_late(LEASE, &keys.incarnation());
                let timing = Timing { lease: LEASE, settle: LEASE };
                Ok(Self { registry: Arc::new(registry), keys, lease, timing })
            }
            Ok(_) | Err(_) => Self::etcd(endpoints, authority).await,
        }
    }

    async fn in_registry(
        registry: Arc<dyn Registry>,
        keys: Keys,
        timing: Timing,
    ) -> Result<Self, Failure> {
        let lease = registry.lease(LEASE, &keys.incarnation()).await.map_err(failed)?;
        Ok(Self { registry, keys, lease, timing })
    }
}

/// Refuses a CA that the cluster of this name was not formed with. Its processes could see each
/// other in etcd, but none would let the other in, and every group over both would fail to form.
async fn check_authority(
    registry: &dyn Registry,
    keys: &Keys,
    authority: &ClusterAuthority,
) -> Result<(), Failure> {
    let (key, mine) = (keys.authority(), authority.digest().to_string().into_bytes());
    for _ in 0..RACES {
        let life = registry.incarnation(&keys.incarnation()).await.map_err(failed)?;
        match registry.get(&key).await.map_err(failed)? {
            Some(stored) if stored.value == mine => return Ok(()),
            Some(_) => {
                return Err(Failure::usage(format!(
                    "the cluster {} was formed with another CA; take the one in `ca` of its \
                     control host's data directory, or form a cluster of your own with --cluster \
                     NAME",
                    authority.cluster()
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

/// How long this process's records outlive it.
const LEASE: Duration = Duration::from_secs(3);
