//! `troupe node`: offers this host's devices to a cluster.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use troupe_actors::node::{actor::NodeMsg, logs::Shelf};
use troupe_runtime::{
    actor::Owned,
    transport::{PeerRole, tls::ClusterAuthority},
};

use super::{
    Failure,
    args::{ClusterArgs, HostArgs},
    say,
};
use crate::stack::{
    asked_to_end,
    identity::{self, DataDir},
    membership::Membership,
    roles::{self, HostDoor, HostOffer},
};

/// Offer this host's devices to a cluster.
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
                "--etcd URLS is needed: hosts find each other through etcd",
            ));
        }
        let data_dir = self.cluster.data_dir.clone().ok_or_else(|| {
            Failure::usage("--data-dir DIR is needed: this host's identity is kept there")
        })?;
        let dir = DataDir::take(&data_dir)?;
        let authority = identity::authority_at(&self.ca, &self.cluster.cluster)?;
        // Its directory is looked at before the store is.
        dir.identity(PeerRole::Node, &authority)?;
        let membership = Membership::etcd(&self.cluster.etcd, &authority).await?;
        let (cluster, host) = (&self.cluster, &self.host);
        let joining = Joining { cluster, host, dir: &dir, authority: &authority };
        let (mut running, _door) = joining.start(&membership, logging).await?;
        say(&format!("node {} offers {} devices", host.name(), host.devices));
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
        };
        drop(running);
        let _ = membership.lease.revoke().await;
        ended
    }
}

/// What a host that joins a cluster goes by, of `troupe node` and of `troupe up` alike.
pub(super) struct Joining<'a> {
    pub(super) cluster: &'a ClusterArgs,
    pub(super) host: &'a HostArgs,
    pub(super) dir: &'a DataDir,
    pub(super) authority: &'a ClusterAuthority,
}

impl Joining<'_> {
    /// Starts the host's node, whose members are processes that log as `logging` says.
    pub(super) async fn start(
        self,
        membership: &Membership,
        logging: Vec<String>,
    ) -> Result<(Owned<NodeMsg>, HostDoor), Failure> {
        let (node, node_dir) = self.dir.identity(PeerRole::Node, self.authority)?;
        let shelf = Shelf::new(self.dir.path());
        let (listen, devices) = (self.cluster.listen, self.host.devices);
        let door = HostDoor::open(&node, listen, devices, self.dir.path())?;
        let offer = HostOffer {
            id: node.name().node,
            name: self.host.name(),
            devices: self.host.devices,
            labels: self.host.labels(),
            address: Some(door.address()),
            data_dir: Some(self.dir.path().to_owned()),
        };
        let ClusterArgs { listen, cluster, .. } = self.cluster;
        let mut spawn = roles::processes(*listen, node_dir, cluster, logging, offer.devices)?;
        spawn.logs = Some(shelf);
        Ok((roles::node(membership, offer, Arc::new(spawn)).await?, door))
    }
}
