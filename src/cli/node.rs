//! `troupe node`: offers this host's devices to a cluster, with an identity that the CA at hand
//! makes. `troupe join` starts the same with one that a control host made.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use tokio::sync::watch;
use troupe_actors::{
    host::Desks,
    node::{actor::NodeMsg, child::TurnedAway, logs::Shelf},
};
use troupe_runtime::{
    actor::Owned,
    transport::{
        DOOR_PORT, PeerRole,
        tls::{Guests, Identity},
    },
};

use super::{
    Failure,
    args::{ClusterArgs, HostArgs},
    say,
};
use crate::stack::{
    asked_to_end, identity,
    identity::DataDir,
    inventory::Offer,
    listen::Place,
    membership::Membership,
    roles::{self, HostOffer},
    upkeep::{Kept, Source, Store, Upkeep},
};

/// Offer this host's devices to a cluster, with the CA's key at hand; `join` needs none.
#[derive(Args, Debug)]
pub(crate) struct NodeCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The folder of the cluster's CA, with its key: `ca` in the control host's data directory.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
}

impl NodeCommand {
    /// Runs until the process is asked to end; its members log as `logging` says.
    pub(crate) async fn run(self, logging: Vec<String>) -> Result<(), Failure> {
        if self.cluster.etcd.is_empty() {
            return Err(Failure::usage(
                "--etcd URLS is needed: hosts find each other through etcd. `troupe join ADDR \
                 --token T` needs neither that nor the CA",
            ));
        }
        let dir = self.cluster.take_data_dir()?;
        let authority = identity::authority_at(&self.ca, &self.cluster.cluster)?;
        // Its directory is looked at before the store is.
        let (identity, identity_dir) = dir.identity(PeerRole::Node, &authority)?;
        let process = NodeProcess {
            dir: &dir,
            identity,
            identity_dir,
            etcd: &self.cluster.etcd,
            listen: self.cluster.door(DOOR_PORT),
            host: &self.host,
            certifier: Certifier::Here(Arc::new(authority)),
        };
        process.run(logging).await
    }
}

/// Who renews a process's certificates.
pub(super) enum Certifier {
    /// The CA, whose key is here.
    Here(Arc<troupe_runtime::transport::tls::ClusterAuthority>),
    /// A control host; these are known from before.
    Control(Vec<String>),
}

impl Certifier {
    /// Asked over this process's own link.
    pub(super) fn over(self, place: &Place, membership: &Membership) -> Source {
        match self {
            Self::Here(authority) => Source::Here(authority),
            Self::Control(known) => {
                Source::Control { link: place.link(), store: Store::of(membership), known }
            }
        }
    }
}

/// A process that is a node and nothing else.
pub(super) struct NodeProcess<'a> {
    pub(super) dir: &'a DataDir,
    pub(super) identity: Identity,
    pub(super) identity_dir: PathBuf,
    pub(super) etcd: &'a [String],
    pub(super) listen: SocketAddr,
    pub(super) host: &'a HostArgs,
    pub(super) certifier: Certifier,
}

impl NodeProcess<'_> {
    /// Runs until the process is asked to end, or is not to be here any more.
    pub(super) async fn run(self, logging: Vec<String>) -> Result<(), Failure> {
        let Self { dir, identity, identity_dir, etcd, listen, host, certifier } = self;
        let name = identity.name().clone();
        let membership = Membership::etcd(etcd, &identity).await?;
        let mut place = Place::take(&identity, listen, Guests::Members)?;
        let shelf = Shelf::new(dir.path());
        let offer = host.offer()?;
        let desk = roles::host_desk(dir.path(), &offer, place.link());
        place.open(Desks { host: Some(Arc::new(desk)), ..Desks::default() });
        let source = certifier.over(&place, &membership);
        let kept = Kept { identity, dir: identity_dir.clone(), link: Some(place.quic()) };
        let upkeep = Upkeep::start(&membership, place.quic(), name.node, &source, vec![kept]);
        let offered = Offered {
            host,
            devices: offer,
            data_dir: dir.path(),
            identity_dir,
            place: &place,
            shelf,
            away: upkeep.away(),
        };
        let mut running = offered.start(&membership, &name, listen, logging).await?;
        say(&format!("node {} offers {} devices ({})", host.name(), offer.count, offer.kind));
        let ended = tokio::select! {
            () = asked_to_end() => {
                say("stopping: requests in flight are finished first");
                tokio::select! {
                    () = roles::leave(&mut running, host.drain_timeout) => {}
                    () = asked_to_end() => say("stopping at once"),
                }
                Ok(())
            }
            () = running.ended() => Err(Failure::run("the node has ended; see the log")),
            revoked = upkeep.revoked() => Err(revoked),
        };
        drop(running);
        let _ = membership.lease.revoke().await;
        ended
    }
}

/// What a host offers, of a process that is a node only and of one that is more.
pub(super) struct Offered<'a> {
    pub(super) host: &'a HostArgs,
    pub(super) devices: Offer,
    pub(super) data_dir: &'a Path,
    /// Where members find the node's identity.
    pub(super) identity_dir: PathBuf,
    pub(super) place: &'a Place,
    pub(super) shelf: Shelf,
    pub(super) away: watch::Receiver<TurnedAway>,
}

impl Offered<'_> {
    /// Starts the host's node, whose members are processes that log as `logging` says.
    pub(super) async fn start(
        self,
        membership: &Membership,
        name: &troupe_runtime::transport::PeerIdentity,
        listen: SocketAddr,
        logging: Vec<String>,
    ) -> Result<Owned<NodeMsg>, Failure> {
        let offer = HostOffer {
            id: name.node,
            name: self.host.name(),
            devices: self.devices,
            labels: self.host.labels(),
            address: Some(self.place.address().to_string()),
            data_dir: Some(self.data_dir.to_owned()),
        };
        let (ip, devices) = (listen.ip(), &offer.devices);
        let mut spawn = roles::processes(ip, self.identity_dir, &name.cluster, logging, devices)?;
        (spawn.logs, spawn.away) = (Some(self.shelf), self.away);
        spawn.link = Some(self.place.link());
        spawn.forget_former();
        roles::node(membership, offer, Arc::new(spawn)).await
    }
}
