//! Starts the roles of a process. Each gives back what keeps it running; dropping that ends it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ractor::Actor;
use tokio::{sync::watch, task::JoinSet};
use troupe_actors::{
    controller::actor::{Controller, ControllerArgs, ControllerMsg},
    host::{self, About, Desks, Facts, HostDesk, PreflightDesk},
    member::load::Models,
    node::{
        actor::{Node, NodeArgs, NodeMsg, Spawn},
        child::{Processes, TurnedAway},
        core::NodeEvent,
        inside::Inside,
        logs::{Reader, Shelf},
    },
    operate::OperateDesk,
};
use troupe_gateway::{GatewayConfig, GatewayHandle, Surroundings};
use troupe_runtime::{
    actor::Owned,
    discovery::{
        Lease,
        directory::{self, GatewayRecord, NodeRecord},
    },
    id::NodeId,
    shutdown::Shutdown,
    transport::{
        Class, Link, LocalNetwork, PeerAddr, PeerIdentity, PeerRole, QuicConfig, QuicLink,
        TransportRuntime, tls::Identity,
    },
    wire,
};
use uuid::Uuid;

use super::{inventory::Offer, membership::Membership, presence::Presence};
use crate::cli::Failure;

/// What a host is and offers.
pub(crate) struct HostOffer {
    /// Its identity.
    pub(crate) id: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// Its devices.
    pub(crate) devices: Offer,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Where its own door is; none for a host inside its controller's process.
    pub(crate) address: Option<String>,
    /// What it must not forget; none for a host that lives as long as its store.
    pub(crate) data_dir: Option<PathBuf>,
}

/// Starts a node.
pub(crate) async fn node(
    membership: &Membership,
    offer: HostOffer,
    spawn: Arc<dyn Spawn>,
) -> Result<Owned<NodeMsg>, Failure> {
    if let Some(data_dir) = &offer.data_dir {
        membership.check_in(offer.id, data_dir).await?;
    }
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
        devices: offer.devices.count,
        device_kind: offer.devices.kind.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        wire: wire::VERSION,
        labels: offer.labels,
        device_memory: offer.devices.memory,
        address: offer.address,
        leaving: false,
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

/// Lets a host finish what runs on it within so many seconds. Returns when nothing does any more,
/// or at the latest a little after its time.
pub(crate) async fn leave(node: &mut Owned<NodeMsg>, seconds: u32) {
    if node.actor().cast(NodeMsg::Event(NodeEvent::Leave(seconds))).is_err() {
        // It has ended, and its members with it.
        return;
    }
    let patience = Duration::from_secs(seconds.into()) + LEAVE_GRACE;
    if tokio::time::timeout(patience, node.ended()).await.is_err() {
        tracing::warn!(seconds, "the time to drain is over, end what still runs");
    }
}

/// A leader whose time is over tells its requests, and its members end.
const LEAVE_GRACE: Duration = Duration::from_secs(5);

/// Starts a controller that holds the office under this lease, with its way to hosts and leaders.
pub(crate) async fn controller(
    membership: &Membership,
    lease: Arc<dyn Lease>,
    link: Option<Arc<dyn Link>>,
) -> Result<Owned<ControllerMsg>, Failure> {
    let args = ControllerArgs {
        registry: membership.registry.clone(),
        keys: membership.keys.clone(),
        lease,
        timing: membership.timing,
        link,
        hub: super::hub(),
    };
    let spawned = Actor::spawn(None, Controller, args).await;
    spawned.map(Owned::new).map_err(|error| Failure::run(error.to_string()))
}

/// Keeps a control host's door, where operators knock; leaders and hosts are reached over `way`.
/// Dropping it closes the door.
pub(crate) fn door(
    membership: &Membership,
    way: Arc<dyn Link>,
    link: Arc<dyn Link>,
) -> JoinSet<()> {
    let (registry, keys) = (membership.registry.clone(), membership.keys.clone());
    let preflight = preflight_desk(membership, way.clone(), link.address());
    let desk = OperateDesk::new(registry, keys, way).with_hub(super::hub());
    let desks = Desks {
        operate: Some(Arc::new(desk)),
        preflight: Some(Arc::new(preflight)),
        ..Desks::default()
    };
    let mut door = JoinSet::new();
    door.spawn(host::door::keep(link, desks));
    door
}

/// What this process knows of itself.
fn about(devices: &Offer, data_dir: Option<PathBuf>) -> About {
    About {
        version: env!("CARGO_PKG_VERSION").into(),
        devices: devices.count,
        device_kind: devices.kind.into(),
        device_memory: devices.memory,
        data_dir,
        cache_dir: super::cache_dir(),
        hub: super::hub(),
    }
}

/// Where control hosts ask this host for logs, facts and distances.
pub(crate) fn host_desk(data_dir: &Path, devices: &Offer, link: Arc<dyn Link>) -> HostDesk {
    let facts = Facts::new(about(devices, Some(data_dir.to_owned())));
    HostDesk::new(Reader::new(Shelf::new(data_dir)), facts, link)
}

/// Where operators ask whether the cluster is fit, at a door with this address; hosts are reached
/// over `way`.
pub(crate) fn preflight_desk(
    membership: &Membership,
    way: Arc<dyn Link>,
    address: PeerAddr,
) -> PreflightDesk {
    let (registry, keys) = (membership.registry.clone(), membership.keys.clone());
    PreflightDesk::new(registry, keys, way, address, Facts::new(about(&Offer::cpu(0), None)))
}

/// Who a gateway is to the rest of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatewayPlace {
    /// Its identity.
    pub(crate) id: NodeId,
    /// Where other hosts reach this one; told if the gateway listens on every address.
    pub(crate) host: IpAddr,
}

/// A gateway that others can find. Dropping it ends it and takes its record away.
pub(crate) struct RunningGateway {
    handle: GatewayHandle,
    _presence: Presence,
}

/// Starts a gateway, and registers it once it listens.
pub(crate) async fn gateway(
    membership: &Membership,
    config: GatewayConfig,
    place: GatewayPlace,
    link: Arc<dyn Link>,
    shutdown: Shutdown,
) -> Result<RunningGateway, Failure> {
    let surroundings = Surroundings {
        link,
        registry: membership.registry.clone(),
        keys: membership.keys.clone(),
        lease: membership.lease.clone(),
        id: place.id,
    };
    let ending = shutdown.clone();
    let handle = troupe_gateway::serve(config, surroundings, shutdown)
        .map_err(|error| Failure::of(&error))?;
    let mut address = handle.address();
    if address.ip().is_unspecified() {
        address.set_ip(place.host);
    }
    let record = GatewayRecord {
        id: place.id,
        address: address.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let key = membership.keys.gateway(place.id);
    let presence =
        Presence::put(&membership.lease, key, directory::to_bytes(record), ending).await?;
    Ok(RunningGateway { handle, _presence: presence })
}

impl RunningGateway {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.address()
    }

    /// Where proxies ask it who answers a request, if they may.
    pub(crate) fn picker_address(&self) -> Option<SocketAddr> {
        self.handle.picker_address()
    }

    /// Returns when it has ended.
    pub(crate) async fn wait(&mut self) {
        self.handle.wait().await;
    }
}

/// A network inside this process: members live in it, and the gateway reaches them.
pub(crate) fn inside(id: NodeId, models: Arc<dyn Models>) -> (Arc<dyn Link>, Arc<dyn Spawn>) {
    let network = LocalNetwork::new();
    let identity = |role| PeerIdentity { cluster: "local".into(), role, node: id };
    let link = network.link(identity(PeerRole::Control));
    let spawn = Inside { network, identity: identity(PeerRole::Node), models };
    (link, Arc::new(spawn))
}

/// Members as processes of this binary, started with these arguments on logging. Their logs are not
/// kept and revoked identities not turned away unless the caller sees to it.
pub(crate) fn processes(
    bind: IpAddr,
    identity_dir: PathBuf,
    cluster: &str,
    logging: Vec<String>,
    devices: &Offer,
) -> Result<Processes, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::run(format!("cannot find this program's file: {error}")))?;
    Ok(Processes {
        program,
        args: [String::from("member"), format!("--device={}", devices.choice)]
            .into_iter()
            .chain(logging)
            .collect(),
        bind: bind.to_string(),
        data_dir: identity_dir,
        logs: None,
        cluster: cluster.to_owned(),
        cores: super::cores() as u32,
        devices: devices.count,
        // Nobody is turned away, and nobody will be.
        away: watch::channel(TurnedAway::default()).1,
        link: None,
    })
}

/// A link over QUIC, with the threads that it lives on. Drop the link before the threads. Large
/// tensors of the classes in `lanes` go over TCP where it gets through.
pub(crate) fn quic(
    identity: &Identity,
    listen: SocketAddr,
    lanes: &[Class],
) -> Result<(Arc<QuicLink>, TransportRuntime), Failure> {
    let threads = TransportRuntime::new(1)
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let config = QuicConfig { listen, lanes: lanes.to_vec(), ..QuicConfig::default() };
    let link = QuicLink::bind(identity, &config, &threads).map_err(|error| Failure::of(&error))?;
    Ok((link, threads))
}
