//! What a person types. Each command is one file: its arguments and the call that they become.
//!
//! Exit codes: 0 an orderly end, 1 a failure while running, 2 arguments, model or configuration
//! that cannot work (nothing was started).

mod args;
mod chat;
mod gateway;
pub(crate) mod layers;
mod logging;
mod member;
mod node;
mod serve;
mod up;

use std::{fmt, process::ExitCode};

use clap::{Parser, Subcommand};
use troupe_runtime::telemetry;

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
    /// Talk to a served model.
    Chat(chat::Chat),
    /// One member of a group: started by its node, never by a person.
    #[command(hide = true)]
    Member,
}

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Arguments, model or configuration cannot work; nothing was started.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// It failed while running.
    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// A usage failure with all its causes.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        Self::usage(troupe_runtime::error::chain(error))
    }
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("troupe: {}", failure.message));
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
    let _telemetry = telemetry::init(&cli.logging.config()).map_err(|error| Failure::of(&error))?;
    let logging = cli.logging.args();
    runtime.block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run(logging).await,
            Command::Up(up) => up.run(logging).await,
            Command::Node(node) => node.run(logging).await,
            Command::Gateway(gateway) => gateway.run().await,
            Command::Chat(chat) => chat.run().await,
            Command::Member => member::run().await,
        }
    })
}

/// Says something to the person at the terminal. Logs have their own way.
#[expect(clippy::print_stderr, reason = "this is the one place that speaks to the terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
