//! `troupe gateway`: serves the HTTP API in front of a cluster.

use std::path::PathBuf;

use clap::Args;
use troupe_runtime::{shutdown::shutdown, transport::PeerRole};

use super::{
    Failure,
    args::{ClusterArgs, HttpArgs},
    say,
};
use crate::stack::{
    asked_to_end,
    identity::{self, DataDir},
    membership::Membership,
    roles::{self, GatewayPlace},
};

/// Serve the HTTP API in front of a cluster.
#[derive(Args, Debug)]
pub(crate) struct GatewayCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    http: HttpArgs,
    /// The folder of the cluster's CA, with its key: `ca` in the control host's data directory.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
}

impl GatewayCommand {
    /// Runs until the process is asked to end.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        if self.cluster.etcd.is_empty() {
            return Err(Failure::usage("--etcd URLS is needed: endpoints are found through etcd"));
        }
        let data_dir = self.cluster.data_dir.clone().ok_or_else(|| {
            Failure::usage("--data-dir DIR is needed: this gateway's identity is kept there")
        })?;
        let dir = DataDir::take(&data_dir)?;
        let authority = identity::authority_at(&self.ca, &self.cluster.cluster)?;
        let (me, _) = dir.identity(PeerRole::Gateway, &authority)?;
        let etcd = &self.cluster.etcd;
        let membership = match troupe_gateway::knows_a_cluster(dir.path()) {
            true => Membership::etcd_or_later(etcd, &authority).await?,
            false => Membership::etcd(etcd, &authority).await?,
        };
        let (link, _threads) = roles::quic(&me, (self.cluster.listen, 0).into())?;
        let place = GatewayPlace { id: me.name().node, host: self.cluster.listen };
        let mut config = self.http.config();
        config.data_dir = Some(dir.path().to_owned());
        let (owner, listener) = shutdown();
        let mut gateway = roles::gateway(&membership, config, place, link, listener).await?;
        say(&format!("gateway on http://{}", gateway.address()));
        asked_to_end().await;
        owner.begin();
        gateway.wait().await;
        let _ = membership.lease.revoke().await;
        Ok(())
    }
}
