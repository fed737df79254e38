//! What a person types. Each command is one file: its arguments and the call that they become.
//!
//! Exit codes: 0 an orderly end, 1 a failure while running, 2 arguments, model or configuration
//! that cannot work (nothing was started).

mod args;
mod batch;
mod bench;
mod certify;
mod chaos;
mod chat;
mod command;
mod completion;
mod control;
mod explain;
mod failure;
mod gateway;
mod health;
mod join;
pub(crate) mod layers;
mod logging;
mod lora;
mod member;
mod node;
mod operate;
mod pod;
pub(crate) mod progress;
mod run;
mod serve;
mod sim;
mod token;
mod up;

use std::process::ExitCode;

use clap::Parser;
use troupe_runtime::telemetry;

use command::Command;
pub(crate) use failure::{Failure, print, say, say_picker};

/// Serves large language models on plain machines.
///
/// On one machine, `troupe serve MODEL` is all there is. On several, `troupe up` on the first and
/// `troupe join` on the others make a cluster that serves what is declared.
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
    runtime.block_on(cli.command.run(logging))
}
