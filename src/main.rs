//! The command line: arguments become typed configuration and one call.

mod cli;
mod demo;
mod stack;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse_from(std::env::args_os().map(long_flag)))
}

/// vLLM's `-tp N` and `-pp N`: one dash with two letters, which no parser of ours has.
fn long_flag(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let long = match name {
        "-tp" => "--tensor-parallel-size",
        "-pp" => "--pipeline-parallel-size",
        _ => return arg,
    };
    value.map_or_else(|| long.into(), |value| format!("{long}={value}").into())
}
