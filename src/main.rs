//! The command line: arguments become typed configuration and one call.

mod cli;
mod demo;
mod stack;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
