//! `troupe serve MODEL`: one machine, one model, one command.
//!
//! The same flow as a cluster's, in one process: a store of its own, a controller, a node whose
//! members live inside, and a gateway. With `--stage-processes` or `--rank-processes` the members
//! are processes that speak QUIC with each other, as on several hosts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::time::Instant;
use troupe_actors::{
    controller::desired::{self, launch},
    member::{
        checkpoint::{Checkpoints, RankProgress},
        load::Models,
    },
    node::actor::Spawn,
};
use troupe_gateway::GatewayConfig;
use troupe_runtime::{
    discovery::directory::{Launch, MemberPer},
    id::NodeId,
    shutdown::shutdown,
    telemetry::metrics::Metrics,
    transport::{Link, PeerRole, TransportRuntime},
};
use uuid::Uuid;

use super::{
    Failure,
    args::{EngineArgs, HttpArgs},
    say,
};
use crate::stack::{
    self, asked_to_end, declare,
    http::HttpClient,
    identity::{self, DataDir},
    roles::{self, HostOffer, Membership},
};

/// Serve one model on this machine.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// A folder, file:// URI, or a name on the hub (org/name) that is in the local cache.
    model: String,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
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
        let mut launch = launch(self.model.clone(), self.model.clone(), self.engine.flags());
        launch.tensor_parallel = self.engine.tensor_parallel_size;
        launch.pipeline_parallel = self.engine.pipeline_parallel_size;
        launch.member_per = match (self.stage_processes, self.rank_processes) {
            (true, _) => MemberPer::Stage,
            (_, true) => MemberPer::Rank,
            (false, false) => MemberPer::Host,
        };
        serve(launch, &self.http, logging).await
    }
}

/// Serves one launch on this machine until the process is asked to end.
pub(crate) async fn serve(
    mut launch: Launch,
    http: &HttpArgs,
    logging: Vec<String>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let hub = stack::hub();
    let metrics = Metrics::new();
    let bar = Bar::new(launch.tensor_parallel * launch.pipeline_parallel);
    let models =
        Checkpoints { hub: hub.clone(), cores: stack::cores(), progress: Some(bar.progress()) };
    // What cannot work is said before anything is started.
    models.prepare(&launch).map_err(Failure::usage)?;
    launch.model_uri = absolute(&launch.model_uri);
    let place = Place::new(&launch, Arc::new(models), &metrics, logging)?;

    let membership = Membership::embedded().await?;
    let (owner, listener) = shutdown();
    let mut config = GatewayConfig::new((http.host, http.port).into());
    config.api_keys.clone_from(&http.api_key);
    config.hub = hub;
    config.seed = launch.flags.seed;
    if place.in_process {
        config.more_metrics = Some(Arc::new(move || metrics.render()));
    }
    let mut gateway = roles::gateway(&membership, config, place.link.clone(), listener).await?;
    let offer = HostOffer {
        id: place.id,
        name: identity::host_name(),
        devices: devices(&launch),
        data_dir: None,
    };
    let mut node = roles::node(&membership, offer, place.spawn.clone()).await?;
    let mut controller = roles::controller(&membership).await?;
    let document = desired::declare("model", 1, &launch);
    declare::declare(&membership.registry, &membership.keys, document).await?;

    tokio::select! {
        ready = declare::until_ready(
            &membership.registry, &membership.keys, "default", "model",
        ) => ready?,
        () = asked_to_end() => return Ok(()),
    }
    bar.finish();
    let port = gateway.address().port();
    let key = http.api_key.first().cloned();
    let client = HttpClient::new(&format!("http://{}", local(http, port)), key.clone());
    client.until_healthy(Duration::from_secs(30)).await;
    announce(&launch, &format!("http://{}", local(http, port)), key.is_some(), began);

    tokio::select! {
        () = asked_to_end() => say("stopping: requests in flight are finished first"),
        () = node.ended() => return Err(Failure::run("the node has ended")),
        () = controller.ended() => return Err(Failure::run("the controller has ended")),
        () = gateway.wait() => return Err(Failure::run("the gateway has ended")),
    }
    owner.begin();
    tokio::select! {
        () = gateway.wait() => {}
        () = asked_to_end() => say("stopping at once"),
    }
    Ok(())
}

/// Where the members live, and how the gateway reaches them.
struct Place {
    id: NodeId,
    link: Arc<dyn Link>,
    spawn: Arc<dyn Spawn>,
    in_process: bool,
    /// The link's threads and the certificates' folder, for members that are processes.
    _held: Option<(TransportRuntime, DataDir, TempDir)>,
}

impl Place {
    fn new(
        launch: &Launch,
        models: Arc<dyn Models>,
        metrics: &Metrics,
        logging: Vec<String>,
    ) -> Result<Self, Failure> {
        if launch.member_per == MemberPer::Host {
            let id = NodeId(Uuid::now_v7());
            let served = launch.flags.served_model_name.first().unwrap_or(&launch.model_name);
            let (link, spawn) = roles::inside(id, models, metrics, served);
            return Ok(Self { id, link, spawn, in_process: true, _held: None });
        }
        let folder = tempfile::Builder::new()
            .prefix("troupe-")
            .tempdir()
            .map_err(|error| Failure::run(format!("cannot make a temporary folder: {error}")))?;
        let dir = DataDir::take(folder.path())?;
        let authority = dir.authority("local")?;
        let (node, node_dir) = dir.identity(PeerRole::Node, &authority)?;
        let (control, _) = dir.identity(PeerRole::Control, &authority)?;
        let loopback = std::net::Ipv4Addr::LOCALHOST;
        let (link, threads) = roles::quic(&control, (loopback, 0).into())?;
        let spawn = roles::processes(loopback.into(), node_dir, "local", logging, devices(launch))?;
        let id = node.name().node;
        Ok(Self { id, link, spawn, in_process: false, _held: Some((threads, dir, folder)) })
    }
}

/// One bar for all ranks that load in this process.
struct Bar {
    bar: ProgressBar,
    shares: Arc<Mutex<std::collections::BTreeMap<troupe_runtime::id::Coordinate, f32>>>,
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
fn absolute(model: &str) -> String {
    let folder = std::path::Path::new(model);
    match (folder.is_dir(), folder.canonicalize()) {
        (true, Ok(folder)) => folder.display().to_string(),
        _ => model.to_owned(),
    }
}

fn devices(launch: &Launch) -> u32 {
    launch.tensor_parallel.saturating_mul(launch.pipeline_parallel)
}

fn local(http: &HttpArgs, port: u16) -> String {
    if http.host.is_unspecified() {
        return format!("localhost:{port}");
    }
    std::net::SocketAddr::from((http.host, port)).to_string()
}

fn announce(launch: &Launch, url: &str, has_key: bool, began: Instant) {
    let name = launch.flags.served_model_name.first().unwrap_or(&launch.model_name);
    let key = if has_key { " -H \"Authorization: Bearer $TROUPE_API_KEY\"" } else { "" };
    say(&format!(
        "Troupe serves {name} on {url} after {:.2} s. Ask it something:\n\n  \
         curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\\n    \
         -d '{{\"model\": \"{name}\", \"messages\": [{{\"role\": \"user\", \
         \"content\": \"What is the capital of France?\"}}]}}'\n",
        began.elapsed().as_secs_f32()
    ));
}
