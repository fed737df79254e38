//! Five times what a service can do, beside four fifths of it.
//!
//! ```text
//! cargo bench --bench overload -- [--seconds N] [--stage-ms N] [--sequences N] [--flags "..."]
//! ```
//! Two groups of two stages, as processes, whose stages take a fixed time for a step, so that what
//! they can do does not depend on this machine. First clients find out how much that is. Then
//! requests come as a Poisson process, a tenth of them critical, three tenths as usual, the rest
//! sheddable; each has to be answered rightly or turned away with a reason and a time. The figures
//! are those of the requests that were answered. `--flags`: the gateway's (docs/flow-control.md).

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod stand;

use stand::{etcd_process, golden, http, joining, load, operator, process, question, random};
use tokio::time::Duration;

use load::overload::{HEAD, Overload};

fn main() -> std::process::ExitCode {
    let overload = asked(std::env::args().skip(1));
    println!("{overload:?}\n");
    let reports = overload.run(|line| println!("{line}\n\n{HEAD}"));
    for report in &reports {
        print!("{report}");
    }
    let clean = reports.iter().all(|report| report.failed.is_empty());
    if clean { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn asked(mut args: impl Iterator<Item = String>) -> Overload {
    let flags = "--flow-request-ttl 0.1 --flow-queue-depth-threshold 0.1";
    let mut overload = Overload {
        groups: 2,
        sequences: 16,
        stage_ms: 20,
        prompt: 200,
        tokens: 32,
        lasts: Duration::from_secs(40),
        loads: vec![0.8, 5.0],
        flags: flags.split_whitespace().map(str::to_owned).collect(),
    };
    while let Some(arg) = args.next() {
        // Cargo's own.
        if arg == "--bench" {
            continue;
        }
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        let number = || value.parse::<u32>().unwrap_or_else(|_| panic!("{arg} needs a number"));
        match arg.as_str() {
            "--seconds" => overload.lasts = Duration::from_secs(number().into()),
            "--stage-ms" => overload.stage_ms = number(),
            "--sequences" => overload.sequences = number() as usize,
            "--flags" => overload.flags = value.split_whitespace().map(str::to_owned).collect(),
            _ => panic!("{arg}: see the top of benches/overload.rs"),
        }
    }
    overload
}
