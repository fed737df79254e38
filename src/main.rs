//! The command line: arguments become typed configuration and one call.

mod bench;
mod cli;
mod client;
mod demo;
mod offline;
mod sim;
mod stack;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(cli::layers::parse(std::env::args_os(), stack::text_variable))
}
