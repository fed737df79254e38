//! `troupe node`: offers this host's devices to a cluster.

use std::path::PathBuf;

use clap::Args;
use troupe_runtime::transport::PeerRole;

use super::{
    Failure,
    args::{ClusterArgs, HostArgs},
    say,
};
use crate::stack::{
    asked_to_end,
    identity::{self, DataDir},
    roles::{self, HostOffer, Membership},
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
        let (node, node_dir) = dir.identity(PeerRole::Node, &authority)?;
        let membership = Membership::etcd(&self.cluster.etcd, &authority).await?;
        let offer = HostOffer {
            id: node.name().node,
            name: self.host.name.clone().unwrap_or_else(identity::host_name),
            devices: self.host.devices,
            data_dir: Some(dir.path().to_owned()),
        };
        let name = offer.name.clone();
        let (listen, cluster) = (self.cluster.listen, &self.cluster.cluster);
        let spawn = roles::processes(listen, node_dir, cluster, logging, self.host.devices)?;
        let mut running = roles::node(&membership, offer, spawn).await?;
        say(&format!("node {name} offers {} devices", self.host.devices));
        let ended = tokio::select! {
            () = asked_to_end() => Ok(()),
            () = running.ended() => Err(Failure::run("the node has ended; see the log")),
        };
        drop(running);
        let _ = membership.lease.revoke().await;
        ended
    }
}
