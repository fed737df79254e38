//! The command line: arguments become typed configuration and one call.

mod bench;
mod chaos;
mod cli;
mod client;
mod demo;
mod offline;
mod sim;
mod stack;

use std::process::ExitCode;

/// A gateway's requests and an engine's steps are many small allocations that end on other threads
/// than they began on: with the C library's allocator they take a sixth of a gateway's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(cli::layers::parse(std::env::args_os(), stack::text_variable))
}
