//! `troupe serve MODEL`: one machine, one model, one command.
//!
//! The same flow as a cluster's, in one process: a store of its own, a controller, a node whose
//! members live inside, and a gateway. With `--stage-processes` or `--rank-processes` the members
//! are processes that speak QUIC with each other, as on several hosts. In a pod of
//! LeaderWorkerSet it is a part of a group over all of its pods ([`super::pod`]).

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};
use troupe_actors::{
    controller::{
        actor::ControllerMsg,
        desired::{self, launch},
    },
    member::{
        checkpoint::{Checkpoints, RankProgress},
        load::Models,
    },
    node::actor::{NodeMsg, Spawn},
};
use troupe_gateway::GatewayConfig;
use troupe_gpu::DeviceChoice;
use troupe_runtime::{
    actor::Owned,
    discovery::directory::{Launch, MemberPer},
    id::NodeId,
    shutdown::{ShutdownOwner, shutdown},
    transport::{Link, PeerRole, TransportRuntime, tls::ClusterAuthority},
};
use uuid::Uuid;

use super::{
    Failure,
    args::{EngineArgs, HttpArgs},
    pod::{Part, PodArgs},
    say, say_picker,
};
use crate::{
    client::http::HttpClient,
    stack::{
        self, asked_to_end, declare,
        identity::{self, DataDir},
        inventory::Offer,
        membership::Membership,
        operator,
        pod::Pod,
        roles::{self, GatewayPlace, HostOffer, RunningGateway},
    },
};

/// Serve one model on this machine.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// A folder, a GGUF file, a name on the hub (org/name, org/name@revision), or a file://, hf://,
    /// s3://, gs:// or https:// URI.
    model: String,
    #[command(flatten)]
    how: LaunchArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    #[command(flatten)]
    pod: PodArgs,
}

/// How a model is run on this machine alone.
#[derive(Args, Debug)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Run each stage in a process of its own, over QUIC.
    #[arg(long)]
    stage_processes: bool,
    /// Run each rank in a process of its own, over QUIC.
    #[arg(long, conflicts_with = "stage_processes")]
    rank_processes: bool,
}

impl Serve {
    /// Serves until the process is asked to end; its members log as `logging` says.
    pub(crate) async fn run(self: Box<Self>, logging: Vec<String>) -> Result<(), Failure> {
        let launch = self.how.launch(&self.model);
        match Pod::of(stack::text_variable).map_err(Failure::usage)? {
            Some(pod) => Part::new(pod, &self.pod, launch, logging)?.serve(&self.http).await,
            None => serve(launch, &self.http, logging).await,
        }
    }
}

impl LaunchArgs {
    /// What starts `model` so.
    pub(crate) fn launch(&self, model: &str) -> Launch {
        let mut launch = launch(model.to_owned(), model.to_owned(), self.engine.flags());
        launch.tensor_parallel = self.engine.tensor_parallel_size;
        launch.pipeline_parallel = self.engine.pipeline_parallel_size;
        launch.expert_parallel = self.engine.enable_expert_parallel;
        launch.member_per = match (self.stage_processes, self.rank_processes) {
            (true, _) => MemberPer::Stage,
            (_, true) => MemberPer::Rank,
            (false, false) => MemberPer::Host,
        };
        launch
    }
}

/// Serves one launch on this machine until the process is asked to end.
pub(crate) async fn serve(
    launch: Launch,
    http: &HttpArgs,
    logging: Vec<String>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let name = launch.flags.served_model_name.first().unwrap_or(&launch.model_name).clone();
    let mut running = tokio::select! {
        running = Local::start(launch, http.config()?, logging) => running?,
        () = asked_to_end() => return Ok(()),
    };
    let key = http.api_key.first().cloned();
    let url = format!("http://{}", local(http, running.port()));
    let client = HttpClient::new(&url, key.clone());
    client.until_healthy(Duration::from_secs(30)).await;
    // Without it requests are served all the same.
    let _door = running.door().inspect_err(|failure| say(&failure.message())).ok();
    announce(&name, &url, key.is_some(), began);

    tokio::select! {
        () = asked_to_end() => say("stopping: requests in flight are finished first"),
        failure = running.ended() => return Err(failure),
    }
    tokio::select! {
        () = running.drain() => {}
        () = asked_to_end() => say("stopping at once"),
    }
    Ok(())
}

/// One model, served from within this process: a store, a controller, a node with its members, and
/// a gateway. Dropping it ends it at once.
pub(crate) struct Local {
    // In the order in which they go.
    controller: Owned<ControllerMsg>,
    node: Owned<NodeMsg>,
    gateway: RunningGateway,
    owner: ShutdownOwner,
    membership: Membership,
    place: Place,
}

impl Local {
    /// Starts it behind a gateway of this configuration; returns once the model is loaded.
    pub(crate) async fn start(
        mut launch: Launch,
        mut config: GatewayConfig,
        logging: Vec<String>,
    ) -> Result<Self, Failure> {
        let bar = Bar::new(launch.tensor_parallel * launch.pipeline_parallel);
        let models = Checkpoints {
            progress: Some(bar.progress()),
            ..stack::checkpoints(DeviceChoice::Auto)
        };
        // What cannot work is said before anything is started.
        models.prepare(&launch).map_err(Failure::usage)?;
        launch.model_uri = absolute(&launch.model_uri);
        let place = Place::new(&launch, Arc::new(models), logging)?;

        let membership = Membership::embedded().await?;
        let (owner, listener) = shutdown();
        config.seed = launch.flags.seed;
        let here = GatewayPlace { id: NodeId(Uuid::now_v7()), host: Ipv4Addr::LOCALHOST.into() };
        let link = place.link.clone();
        let gateway = roles::gateway(&membership, config, here, link, listener).await?;
        say_picker(gateway.picker_address());
        let offer = HostOffer {
            id: place.id,
            name: identity::host_name(),
            devices: Offer::of_launch(&launch),
            labels: BTreeMap::new(),
            address: None,
            data_dir: None,
        };
        let node = roles::node(&membership, offer, place.spawn.clone()).await?;
        let controller = roles::controller(&membership, membership.lease.clone(), None).await?;
        let document = desired::declare("model", 1, &launch);
        declare::declare(&membership.registry, &membership.keys, document).await?;
        declare::until_ready(&membership.registry, &membership.keys, "default", "model").await?;
        bar.finish();
        Ok(Self { controller, node, gateway, owner, membership, place })
    }

    /// Opens a door for operators of this machine, and leaves them a context.
    fn door(&self) -> Result<LocalDoor, Failure> {
        let authority = ClusterAuthority::create("local").map_err(|error| Failure::of(&error))?;
        let issue = |role, node| authority.issue(role, node).map_err(|error| Failure::of(&error));
        let control = issue(PeerRole::Control, self.place.id)?;
        let operator = issue(PeerRole::Operator, NodeId(Uuid::now_v7()))?;
        let (link, threads) = roles::quic(&control, (Ipv4Addr::LOCALHOST, 0).into(), &[])?;
        let door = roles::door(&self.membership, self.place.link.clone(), link.clone());
        operator::write_default(&operator, &[link.address()]);
        Ok(LocalDoor { _door: door, _link: link, _threads: threads })
    }

    /// The port that its gateway listens on.
    pub(crate) fn port(&self) -> u16 {
        self.gateway.address().port()
    }

    /// Returns if a part of it ends, which none does by itself, with which.
    pub(crate) async fn ended(&mut self) -> Failure {
        tokio::select! {
            () = self.node.ended() => Failure::run("the node has ended"),
            () = self.controller.ended() => Failure::run("the controller has ended"),
            () = self.gateway.wait() => Failure::run("the gateway has ended"),
        }
    }

    /// Takes no new requests, and returns when those in flight are finished.
    async fn drain(&mut self) {
        self.owner.begin();
        self.gateway.wait().await;
    }
}

/// Where operators knock.
struct LocalDoor {
    // In the order in which they go.
    _door: JoinSet<()>,
    _link: Arc<dyn Link>,
    _threads: TransportRuntime,
}

/// Where the members live, and how the gateway reaches them.
struct Place {
    id: NodeId,
    link: Arc<dyn Link>,
    spawn: Arc<dyn Spawn>,
    /// The link's threads and the certificates' folder, for members that are processes.
    _held: Option<(TransportRuntime, DataDir, TempDir)>,
}

impl Place {
    fn new(
        launch: &Launch,
        models: Arc<dyn Models>,
        logging: Vec<String>,
    ) -> Result<Self, Failure> {
        if launch.member_per == MemberPer::Host {
            let id = NodeId(Uuid::now_v7());
            let (link, spawn) = roles::inside(id, models);
            return Ok(Self { id, link, spawn, _held: None });
        }
        let folder = tempfile::Builder::new()
            .prefix("troupe-")
            .tempdir()
            .map_err(|error| Failure::run(format!("cannot make a temporary folder: {error}")))?;
        let dir = DataDir::take(folder.path())?;
        let authority = dir.authority("local")?;
        let (node, node_dir) = dir.identity(PeerRole::Node, &authority)?;
        let (control, _) = dir.identity(PeerRole::Control, &authority)?;
        let loopback = Ipv4Addr::LOCALHOST;
        let (link, threads) = roles::quic(&control, (loopback, 0).into(), &[])?;
        let spawn = {
            let offer = Offer::of_launch(launch);
            roles::processes(loopback.into(), node_dir, "local", logging, &offer)?
        };
        let id = node.name().node;
        Ok(Self { id, link, spawn: Arc::new(spawn), _held: Some((threads, dir, folder)) })
    }
}

/// One bar for all ranks that load in this process.
struct Bar {
    bar: ProgressBar,
    shares: Arc<Mutex<BTreeMap<troupe_runtime::id::Coordinate, f32>>>,
    ranks: u32,
}

impl Bar {
    fn new(ranks: u32) -> Self {
        // Hidden by itself where the output is no terminal.
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("loading weights {bar:30} {percent:>3} %");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, shares: Arc::default(), ranks }
    }

    fn progress(&self) -> RankProgress {
        let (bar, shares, ranks) = (self.bar.clone(), self.shares.clone(), self.ranks);
        Arc::new(move |rank, share| {
            let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
            shares.insert(rank, share);
            let sum: f32 = shares.values().sum();
            bar.set_position((sum / ranks as f32 * 1000.0) as u64);
        })
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A relative folder means another one in another process.
pub(super) fn absolute(model: &str) -> String {
    let folder = std::path::Path::new(model);
    match (folder.is_dir(), folder.canonicalize()) {
        (true, Ok(folder)) => folder.display().to_string(),
        _ => model.to_owned(),
    }
}

pub(super) fn devices(launch: &Launch) -> u32 {
    launch.tensor_parallel.saturating_mul(launch.pipeline_parallel)
}

pub(super) fn local(http: &HttpArgs, port: u16) -> String {
    if http.host.is_unspecified() {
        return format!("localhost:{port}");
    }
    std::net::SocketAddr::from((http.host, port)).to_string()
}

pub(super) fn announce(name: &str, url: &str, has_key: bool, began: Instant) {
    let key = if has_key { " -H \"Authorization: Bearer $TROUPE_API_KEY\"" } else { "" };
    say(&format!(
        "Troupe serves {name} on {url} after {:.2} s. Ask it something:\n\n  \
         curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\\n    \
         -d '{{\"model\": \"{name}\", \"messages\": [{{\"role\": \"user\", \
         \"content\": \"What is the capital of France?\"}}]}}'\n",
        began.elapsed().as_secs_f32()
    ));
}
