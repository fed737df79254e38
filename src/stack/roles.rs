//! Starts the roles of a process. Each gives back what keeps it running; dropping that ends it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ractor::Actor;
use troupe_actors::{
    controller::{
        actor::{Controller, ControllerArgs, ControllerMsg},
        plan::Timing,
    },
    leader::observe::Observer,
    member::load::Models,
    node::{
        actor::{Node, NodeArgs, NodeMsg, Spawn},
        child::Processes,
        inside::Inside,
    },
};
use troupe_gateway::{GatewayConfig, GatewayHandle};
use troupe_runtime::{
    actor::Owned,
    discovery::{
        Compare, Lease, Op, Registry, RegistryError, Txn,
        directory::NodeRecord,
        embedded::EmbeddedRegistry,
        etcd::{EtcdConfig, EtcdRegistry},
        keys::Keys,
    },
    id::NodeId,
    shutdown::Shutdown,
    telemetry::metrics::Metrics,
    transport::{
        Link, LocalNetwork, PeerIdentity, PeerRole, QuicConfig, QuicLink, TransportRuntime,
        tls::{ClusterAuthority, Identity},
    },
};
use uuid::Uuid;

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

    async fn in_registry(
        registry: Arc<dyn Registry>,
        keys: Keys,
        timing: Timing,
    ) -> Result<Self, Failure> {
        let lease = registry.lease(LEASE).await.map_err(|error| Failure::run(error.to_string()))?;
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
    let failed = |error: RegistryError| Failure::run(error.to_string());
    let (key, mine) = (keys.authority(), authority.digest().to_string().into_bytes());
    let first = Txn {
        compare: vec![Compare::Absent(key.clone())],
        then: vec![Op::Put(key.clone(), mine.clone())],
    };
    let stored = match registry.get(&key).await.map_err(failed)? {
        Some(stored) => Some(stored),
        None if registry.commit(first).await.map_err(failed)? => return Ok(()),
        // Another process was faster.
        None => registry.get(&key).await.map_err(failed)?,
    };
    if stored.is_some_and(|stored| stored.value == mine) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the cluster {} was formed with another CA; take the one in `ca` of its control host's \
         data directory, or form a cluster of your own with --cluster NAME",
        authority.cluster()
    )))
}

/// What a host is and offers.
pub(crate) struct HostOffer {
    /// Its identity.
    pub(crate) id: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// Its devices.
    pub(crate) devices: u32,
    /// What it must not forget; none for a host that lives as long as its store.
    pub(crate) data_dir: Option<PathBuf>,
}

/// Starts a node.
pub(crate) async fn node(
    membership: &Membership,
    offer: HostOffer,
    spawn: Arc<dyn Spawn>,
) -> Result<Owned<NodeMsg>, Failure> {
    let key = membership.keys.name(&offer.name);
    let mine = membership
        .lease
        .claim(&key, offer.id.to_string().into_bytes())
        .await
        .map_err(|error| Failure::run(error.to_string()))?;
    if !mine {
        return Err(Failure::usage(format!(
            "a host named {} is in the cluster already; give this one another --name",
            offer.name
        )));
    }
    let record = NodeRecord {
        id: offer.id,
        name: offer.name,
        process: Uuid::now_v7(),
        devices: offer.devices,
        device_kind: "cpu".into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let args = NodeArgs {
        record,
        registry: membership.registry.clone(),
        keys: membership.keys.clone(),
        lease: membership.lease.clone(),
        spawn,
        data_dir: offer.data_dir,
    };
    let spawned = Actor::spawn(None, Node, args).await;
    spawned.map(Owned::new).map_err(|error| Failure::run(error.to_string()))
}

/// Starts a controller.
pub(crate) async fn controller(membership: &Membership) -> Result<Owned<ControllerMsg>, Failure> {
    let args = ControllerArgs {
        registry: membership.registry.clone(),
        keys: membership.keys.clone(),
        lease: membership.lease.clone(),
        timing: membership.timing,
    };
    let spawned = Actor::spawn(None, Controller, args).await;
    spawned.map(Owned::new).map_err(|error| Failure::run(error.to_string()))
}

/// Starts a gateway.
pub(crate) async fn gateway(
    membership: &Membership,
    config: GatewayConfig,
    link: Arc<dyn Link>,
    shutdown: Shutdown,
) -> Result<GatewayHandle, Failure> {
    let (registry, keys) = (membership.registry.clone(), membership.keys.clone());
    troupe_gateway::serve(config, link, registry, keys, shutdown)
        .await
        .map_err(|error| Failure::of(&error))
}

/// A network inside this process: members live in it, and the gateway reaches them.
pub(crate) fn inside(
    id: NodeId,
    models: Arc<dyn Models>,
    metrics: &Metrics,
    model_name: &str,
) -> (Arc<dyn Link>, Arc<dyn Spawn>) {
    let network = LocalNetwork::new();
    let identity = |role| PeerIdentity { cluster: "local".into(), role, node: id };
    let link = network.link(identity(PeerRole::Control));
    let observer = Observer::new(metrics, model_name);
    let spawn = Inside { network, identity: identity(PeerRole::Node), models, observer };
    (link, Arc::new(spawn))
}

/// Members as processes of this binary, started with these arguments on logging.
pub(crate) fn processes(
    bind: std::net::IpAddr,
    identity_dir: PathBuf,
    cluster: &str,
    logging: Vec<String>,
    devices: u32,
) -> Result<Arc<dyn Spawn>, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::run(format!("cannot find this program's file: {error}")))?;
    Ok(Arc::new(Processes {
        program,
        args: std::iter::once("member".into()).chain(logging).collect(),
        bind: bind.to_string(),
        data_dir: identity_dir,
        cluster: cluster.to_owned(),
        cores: super::cores() as u32,
        devices,
    }))
}

/// A link over QUIC, with the threads that it lives on. Drop the link before the threads.
pub(crate) fn quic(
    identity: &Identity,
    listen: SocketAddr,
) -> Result<(Arc<dyn Link>, TransportRuntime), Failure> {
    let threads = TransportRuntime::new(1)
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let config = QuicConfig { listen, ..QuicConfig::default() };
    let link = QuicLink::bind(identity, &config, &threads).map_err(|error| Failure::of(&error))?;
    Ok((link, threads))
}

/// How long this process's records outlive it.
const LEASE: Duration = Duration::from_secs(3);
