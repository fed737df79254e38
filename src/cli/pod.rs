//! `troupe serve MODEL` in the pods of a LeaderWorkerSet: one group over all of them, without etcd.
//!
//! The first pod is what `troupe serve` is on one machine (store, controller, gateway, node) and
//! takes the others in as guests ([`troupe_actors::guest`]): `lead`. Each of those is a node:
//! `follow`. Whichever pod is restarted, the rest stays and the group forms again with it, under a
//! higher epoch.

mod follow;
mod lead;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tempfile::TempDir;
use tokio::time::Instant;
use troupe_actors::{member::load::Models, node::actor::NodeMsg};
use troupe_gpu::DeviceChoice;
use troupe_runtime::{
    actor::Owned,
    backoff::Backoff,
    discovery::directory::Launch,
    transport::{
        PeerRole,
        tls::{ClusterAuthority, Identity},
    },
};

use super::{
    Failure,
    args::HttpArgs,
    serve::{absolute, devices},
};
use crate::stack::{
    self,
    identity::{self, DataDir},
    inventory::{self, Offer},
    membership::Membership,
    pod::Pod,
    roles::{self, HostOffer},
};

/// How the pods of a group find and trust each other. Without the variables that LeaderWorkerSet
/// sets they have no effect.
#[derive(Args, Clone, Debug)]
pub(crate) struct PodArgs {
    /// In a group of pods: the folder of their certificate, which `troupe certify` makes.
    #[arg(long, value_name = "DIR")]
    identity_dir: Option<PathBuf>,
    /// In a group of pods: the folder of a CA with its key, to make a certificate from at each
    /// start, instead of --identity-dir.
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// In a group of pods: the UDP port at which the first takes the others in.
    #[arg(long, value_name = "PORT", default_value_t = 7411)]
    group_port: u16,
    /// In a group of pods: how long they wait for each other before they give up, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    group_timeout: u64,
}

/// One pod's part.
pub(super) struct Part {
    pod: Pod,
    launch: Launch,
    devices: u32,
    credentials: Credentials,
    port: u16,
    patience: Duration,
    logging: Vec<String>,
}

/// Who a pod is.
struct Credentials {
    identity: Identity,
    /// Where its members read that identity.
    dir: PathBuf,
    /// That folder, if it was made for this process.
    _folder: Option<(DataDir, TempDir)>,
}

impl Part {
    /// Checks everything that can be checked before anything is started.
    pub(super) fn new(
        pod: Pod,
        args: &PodArgs,
        mut launch: Launch,
        logging: Vec<String>,
    ) -> Result<Self, Failure> {
        let all = devices(&launch);
        if !all.is_multiple_of(pod.size) {
            return Err(Failure::usage(format!(
                "{} stages of {} ranks need {all} devices, which {} pods (LWS_GROUP_SIZE) cannot \
                 share equally",
                launch.pipeline_parallel, launch.tensor_parallel, pod.size
            )));
        }
        let credentials = args.credentials()?;
        if !matches!(credentials.identity.name().role, PeerRole::Node | PeerRole::Control) {
            let dir = credentials.dir.display();
            return Err(Failure::usage(format!("{dir} is not the identity of a node")));
        }
        stack::checkpoints(DeviceChoice::Auto).prepare(&launch).map_err(Failure::usage)?;
        launch.model_uri = absolute(&launch.model_uri);
        let devices = all / pod.size;
        let (port, patience) = (args.group_port, Duration::from_secs(args.group_timeout));
        Ok(Self { pod, launch, devices, credentials, port, patience, logging })
    }

    /// Serves until the process is asked to end.
    pub(super) async fn serve(self, http: &HttpArgs) -> Result<(), Failure> {
        match self.pod.index {
            0 => self.lead(http).await,
            _ => self.follow().await,
        }
    }

    /// The leader's address, as soon as its name resolves.
    async fn find_leader(&self) -> Result<SocketAddr, Failure> {
        let (began, mut attempt) = (Instant::now(), 0);
        let mut said = String::new();
        loop {
            let why = match self.pod.find_leader(self.port).await {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            if began.elapsed() >= self.patience {
                return Err(self.gave_up(&why));
            }
            if said != why {
                tracing::info!(why, "the leader's name does not resolve yet");
                said = why;
            }
            tokio::time::sleep(Backoff::default().wait(self.pod.index.into(), attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    fn gave_up(&self, why: &str) -> Failure {
        let patience = self.patience;
        Failure::run(format!("no leader for {patience:?} (--group-timeout): {why}"))
    }

    async fn node(
        &self,
        membership: &Membership,
        address: IpAddr,
    ) -> Result<Owned<NodeMsg>, Failure> {
        let offer = HostOffer {
            id: self.pod.node(),
            name: identity::host_name(),
            devices: Offer::cpu(self.devices),
            labels: inventory::labels(&identity::host_name(), &[]),
            address: None,
            data_dir: None,
        };
        let Credentials { identity, dir, .. } = &self.credentials;
        let (cluster, dir, logging) = (&identity.name().cluster, dir.clone(), self.logging.clone());
        let spawn = roles::processes(address, dir, cluster, logging, &Offer::cpu(self.devices))?;
        roles::node(membership, offer, Arc::new(spawn)).await
    }
}

impl PodArgs {
    fn credentials(&self) -> Result<Credentials, Failure> {
        let failed = |error| Failure::of(&error);
        match (&self.identity_dir, &self.ca) {
            (Some(dir), None) => {
                let identity = Identity::load(dir).map_err(failed)?;
                Ok(Credentials { identity, dir: dir.clone(), _folder: None })
            }
            (None, Some(ca)) => {
                let folder = tempfile::Builder::new().prefix("troupe-").tempdir();
                let folder = folder.map_err(|error| {
                    Failure::run(format!("cannot make a temporary folder: {error}"))
                })?;
                let held = DataDir::take(folder.path())?;
                let authority = ClusterAuthority::load(ca).map_err(failed)?;
                let (identity, dir) = held.identity(PeerRole::Node, &authority)?;
                Ok(Credentials { identity, dir, _folder: Some((held, folder)) })
            }
            _ => Err(Failure::usage(
                "the pods of a group (LWS_GROUP_SIZE is set) need --identity-dir DIR, which \
                 `troupe certify` makes, or --ca DIR, but not both",
            )),
        }
    }
}
