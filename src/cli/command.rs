//! The commands there are, in the order in which the help lists them, and what each calls.

use clap::Subcommand;
use troupe_gpu::DeviceChoice;

use super::{
    Failure, batch, bench, certify, chaos, chat, completion, explain, gateway, health, join,
    member, node, operate, run, serve, sim, token, up,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve one model on this machine, behind an OpenAI-compatible endpoint.
    Serve(Box<serve::Serve>),
    /// Start a stack on this host: controller, gateway and node, or some of them.
    Up(Box<up::Up>),
    /// Make this host a part of a cluster, and start it.
    Join(Box<join::Join>),
    /// Make, show and revoke join tokens, by which hosts come into the cluster.
    Token(token::Token),
    /// Take hosts out of the cluster: they are believed no more.
    Revoke(token::RevokeCommand),
    /// Offer this host's devices to a cluster, with the CA's key at hand.
    Node(node::NodeCommand),
    /// Serve the HTTP API in front of a cluster.
    Gateway(gateway::GatewayCommand),
    /// Ask a gateway whether it answers.
    Health(health::Health),
    /// Make certificates for a group of pods without etcd.
    Certify(certify::Certify),
    /// Make objects as files say: created if they are not there, changed if they are.
    Apply(operate::Apply),
    /// Create the objects of files, which must not be there yet.
    Create(operate::Create),
    /// Show objects: services, groups, nodes, events and the rest.
    Get(operate::Get),
    /// Show objects in detail, with the events about them.
    Describe(operate::Describe),
    /// Delete objects, and wait until what was made for them is gone too.
    Delete(operate::Delete),
    /// Set the number of replicas of services.
    Scale(operate::ScaleCommand),
    /// Look at rollouts of services, and steer them.
    Rollout(operate::Rollout),
    /// Set labels of objects, and of hosts, which services are placed by.
    Label(operate::LabelCommand),
    /// Show what happened, the newest last.
    Events(operate::EventsCommand),
    /// Show what the members of a group or service said.
    Logs(operate::LogsCommand),
    /// Show how busy hosts and services are.
    Top(operate::Top),
    /// Show where a request was placed, and why.
    Explain(explain::Explain),
    /// Plan nothing new on hosts.
    Cordon(operate::Cordon),
    /// Plan on hosts again.
    Uncordon(operate::Uncordon),
    /// Plan nothing new on hosts and move away what is there, without losing a request.
    Drain(operate::Drain),
    /// Find out whether the cluster is fit: ways between hosts, clocks, versions, limits, a model.
    Preflight(operate::Preflight),
    /// Kill or freeze a part of the cluster on purpose, and see what clients notice.
    Chaos(Box<chaos::Chaos>),
    /// Print a shell's completions for this command.
    Completion(completion::Completion),
    /// Talk to a served model.
    Chat(chat::Chat),
    /// Generate for a file of prompts, without a server.
    Run(Box<run::Run>),
    /// Answer an OpenAI batch file.
    Batch(Box<batch::Batch>),
    /// Put load on a server and measure.
    Bench(bench::Bench),
    /// Compare ways to place requests, over engines whose devices are played.
    Sim(Box<sim::Sim>),
    /// One member of a group: started by its node, never by a person.
    #[command(hide = true)]
    Member {
        /// The devices that its host offers.
        #[arg(long, default_value = "auto")]
        device: DeviceChoice,
    },
}

impl Command {
    /// What is logged unless said otherwise. Commands that end by themselves have a progress bar
    /// instead of a running account.
    pub(super) fn log_filter(&self) -> &'static str {
        match self {
            Self::Serve(_)
            | Self::Up(_)
            | Self::Join(_)
            | Self::Node(_)
            | Self::Gateway(_)
            | Self::Member { .. } => "info",
            Self::Run(_) | Self::Batch(_) | Self::Bench(_) | Self::Chat(_) => "warn",
            // What fails is what the command itself says.
            _ => "error",
        }
    }

    /// Runs it to its end; what it starts logs as `logging` says.
    pub(super) async fn run(self, logging: Vec<String>) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(logging).await,
            Self::Up(up) => up.run(logging).await,
            Self::Join(join) => join.run(logging).await,
            Self::Token(token) => token.run().await,
            Self::Revoke(revoke) => revoke.run().await,
            Self::Node(node) => node.run(logging).await,
            Self::Gateway(gateway) => gateway.run().await,
            Self::Health(health) => health.run().await,
            Self::Certify(certify) => certify.run(),
            Self::Apply(apply) => apply.run().await,
            Self::Create(create) => create.run().await,
            Self::Get(get) => get.run().await,
            Self::Describe(describe) => describe.run().await,
            Self::Delete(delete) => delete.run().await,
            Self::Scale(scale) => scale.run().await,
            Self::Rollout(rollout) => rollout.run().await,
            Self::Label(label) => label.run().await,
            Self::Events(events) => events.run().await,
            Self::Logs(logs) => logs.run().await,
            Self::Top(top) => top.run().await,
            Self::Explain(explain) => explain.run().await,
            Self::Cordon(cordon) => cordon.run().await,
            Self::Uncordon(uncordon) => uncordon.run().await,
            Self::Drain(drain) => drain.run().await,
            Self::Preflight(preflight) => preflight.run().await,
            Self::Chaos(chaos) => chaos.run().await,
            Self::Completion(completion) => completion.run(),
            Self::Chat(chat) => chat.run().await,
            Self::Run(run) => run.run(logging).await,
            Self::Batch(batch) => batch.run(logging).await,
            Self::Bench(bench) => bench.run().await,
            Self::Sim(sim) => sim.run(),
            Self::Member { device } => member::run(device).await,
        }
    }
}
