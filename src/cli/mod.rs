//! What a person types. Each command is one file: its arguments and the call that they become.
//!
//! Exit codes: 0 an orderly end, 1 a failure while running, 2 arguments, model or configuration
//! that cannot work (nothing was started).

mod args;
mod batch;
mod bench;
mod certify;
mod chat;
mod completion;
mod failure;
mod gateway;
mod health;
pub(crate) mod layers;
mod logging;
mod member;
mod node;
mod operate;
mod pod;
pub(crate) mod progress;
mod run;
mod serve;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use troupe_runtime::telemetry;

pub(crate) use failure::{Failure, print, say};

/// Serves large language models on plain machines.
///
/// On one machine, `troupe serve MODEL` is all there is. On several, `troupe up` on the first and
/// `troupe node` on the others find each other through etcd and serve what is declared.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: logging::Logging,
    /// A file of `flag: value` lines (YAML). The environment (TROUPE_PORT for --port) and flags win
    /// over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one model on this machine, behind an OpenAI-compatible endpoint.
    Serve(Box<serve::Serve>),
    /// Start a stack on this host: controller, gateway and node, or some of them.
    Up(Box<up::Up>),
    /// Offer this host's devices to a cluster.
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
    /// Plan nothing new on hosts.
    Cordon(operate::Cordon),
    /// Plan on hosts again.
    Uncordon(operate::Uncordon),
    /// Plan nothing new on hosts and move away what is there, without losing a request.
    Drain(operate::Drain),
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
    /// One member of a group: started by its node, never by a person.
    #[command(hide = true)]
    Member,
}

impl Command {
    /// What is logged unless said otherwise. Commands that end by themselves have a progress bar
    /// instead of a running account.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Serve(_) | Self::Up(_) | Self::Node(_) | Self::Gateway(_) | Self::Member => {
                "info"
            }
            Self::Run(_) | Self::Batch(_) | Self::Bench(_) | Self::Chat(_) => "warn",
            // What fails is what the command itself says.
            _ => "error",
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.message());
            ExitCode::from(failure.code)
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    // Held to the end, so that the last spans are sent.
    let filter = cli.command.log_filter();
    let config = cli.logging.config(filter);
    let _telemetry = telemetry::init(&config).map_err(|error| Failure::of(&error))?;
    let logging = cli.logging.args(filter);
    runtime.block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run(logging).await,
            Command::Up(up) => up.run(logging).await,
            Command::Node(node) => node.run(logging).await,
            Command::Gateway(gateway) => gateway.run().await,
            Command::Health(health) => health.run().await,
            Command::Certify(certify) => certify.run(),
            Command::Apply(apply) => apply.run().await,
            Command::Create(create) => create.run().await,
            Command::Get(get) => get.run().await,
            Command::Describe(describe) => describe.run().await,
            Command::Delete(delete) => delete.run().await,
            Command::Scale(scale) => scale.run().await,
            Command::Rollout(rollout) => rollout.run().await,
            Command::Label(label) => label.run().await,
            Command::Events(events) => events.run().await,
            Command::Logs(logs) => logs.run().await,
            Command::Top(top) => top.run().await,
            Command::Cordon(cordon) => cordon.run().await,
            Command::Uncordon(uncordon) => uncordon.run().await,
            Command::Drain(drain) => drain.run().await,
            Command::Completion(completion) => completion.run(),
            Command::Chat(chat) => chat.run().await,
            Command::Run(run) => run.run(logging).await,
            Command::Batch(batch) => batch.run(logging).await,
            Command::Bench(bench) => bench.run().await,
            Command::Member => member::run().await,
        }
    })
}
