//! `troupe gateway`: serves the HTTP API in front of a cluster.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use troupe_runtime::{
    shutdown::shutdown,
    transport::{
        PeerRole,
        tls::{Guests, Identity},
    },
    wire::join::JoinPart,
};

use super::{
    Failure,
    args::{ClusterArgs, HttpArgs},
    join::{others, report, store, token},
    node::Certifier,
    say, say_picker,
};
use crate::stack::{
    asked_to_end,
    identity::{self, DataDir},
    join::{self, Joined, Request},
    listen::{Door, Listen, Place},
    membership::Membership,
    roles::{self, GatewayPlace},
    upkeep::{Kept, Upkeep},
};

/// Serve the HTTP API in front of a cluster.
///
/// The first time it joins, as a host does: `troupe gateway --join ADDR --token T`. After that its
/// data directory says who it is.
#[derive(Args, Debug)]
pub(crate) struct GatewayCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    http: HttpArgs,
    /// Where a control host is: HOST or HOST:PORT [default port: 7443].
    #[arg(long, value_name = "ADDR")]
    join: Option<Door>,
    /// What lets this gateway in; not needed by one that has joined.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Instead of joining: the folder of the cluster's CA, with its key, `ca` in a control host's
    /// data directory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["join", "token"])]
    ca: Option<PathBuf>,
}

/// Who a gateway is, and where the store is.
struct Itself {
    identity: Identity,
    dir: PathBuf,
    etcd: Vec<String>,
    /// Others, by which it finds its own address.
    others: Vec<String>,
    certifier: Certifier,
}

impl GatewayCommand {
    /// Runs until the process is asked to end.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let dir = self.cluster.take_data_dir()?;
        let Itself { identity, dir: identity_dir, etcd, others, certifier } = match &self.ca {
            Some(ca) => self.with_authority(&dir, ca)?,
            None => self.joined(&dir).await?,
        };
        let me = identity.name().node;
        let membership = match troupe_gateway::knows_a_cluster(dir.path()) {
            true => Membership::etcd_or_later(&etcd, &identity).await?,
            false => Membership::etcd(&etcd, &identity).await?,
        };
        if membership.reached {
            membership.check_in(me, dir.path()).await?;
        }
        // Nobody asks a gateway over QUIC, so its port is nobody's to know.
        let listen = Listen::or_towards(self.cluster.listen, others, 0);
        let place = Place::take(&identity, listen, Guests::Members)?;
        let source = certifier.over(&place, &membership);
        let kept = Kept { identity, dir: identity_dir, link: Some(place.quic()) };
        let upkeep = Upkeep::start(&membership, place.quic(), me, &source, vec![kept]);
        let at = GatewayPlace { id: me, host: listen.ip() };
        let mut config = self.http.config()?;
        config.data_dir = Some(dir.path().to_owned());
        let (owner, listener) = shutdown();
        let mut gateway = roles::gateway(&membership, config, at, place.link(), listener).await?;
        say_picker(gateway.picker_address());
        say(&format!("gateway on http://{}", gateway.address()));
        let ended = tokio::select! {
            () = asked_to_end() => Ok(()),
            revoked = upkeep.revoked() => Err(revoked),
        };
        owner.begin();
        gateway.wait().await;
        let _ = membership.lease.revoke().await;
        ended
    }

    fn with_authority(&self, dir: &DataDir, ca: &std::path::Path) -> Result<Itself, Failure> {
        let etcd = self.cluster.etcd.clone();
        if etcd.is_empty() {
            return Err(Failure::usage(
                "--etcd URLS is needed with --ca: endpoints are found through etcd",
            ));
        }
        let authority = identity::authority_at(ca, &self.cluster.cluster)?;
        let (identity, folder) = dir.identity(PeerRole::Gateway, &authority)?;
        let certifier = Certifier::Here(Arc::new(authority));
        Ok(Itself { identity, dir: folder, others: etcd.clone(), etcd, certifier })
    }

    async fn joined(&self, dir: &DataDir) -> Result<Itself, Failure> {
        let token = token(self.token.as_deref())?;
        let request = Request {
            part: JoinPart::Gateway,
            at: self.join.as_ref(),
            token: token.as_ref(),
            name: identity::host_name(),
        };
        let joined = join::join(dir, &request).await?;
        report(&joined, &request, dir)?;
        let Joined { identity, dir: folder, cluster, .. } = joined;
        let etcd = store(&self.cluster.etcd, &cluster, dir)?;
        let others = others(&request, &cluster, &etcd);
        let certifier = Certifier::Control(cluster.control);
        Ok(Itself { identity, dir: folder, etcd, others, certifier })
    }
}
