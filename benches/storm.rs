//! A thousand streams while groups are killed every two seconds: `make storm`.
//!
//! ```text
//! cargo bench --bench storm -- [--streams N] [--groups N] [--seconds N] [--every-ms N]
//!     [--tokens N] [--questions N]
//! ```
//! A control host, a gateway and hosts of one device each, all processes, over a real etcd; groups
//! of two stages on two hosts. Every question is asked once in peace; then clients ask them without
//! a pause, half of them sampled with a seed, and every answer has to be the same, while the
//! leader, the worker or both of one group after another are killed. It fails if a stream is lost
//! or wrong.
//! `tests/cluster/storm.rs` is a short one.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod stand;

use stand::{etcd_process, golden, http, joining, load, operator, process, question, random};
use tokio::time::Duration;

use load::storm::Storm;

fn main() -> std::process::ExitCode {
    let storm = asked(std::env::args().skip(1));
    println!("{storm:?}");
    let report = storm.run();
    println!("{report}");
    let clean = report.ended == report.begun && report.kills > 0;
    if clean { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn asked(mut args: impl Iterator<Item = String>) -> Storm {
    let mut storm = Storm {
        streams: 1000,
        groups: 4,
        lasts: Duration::from_secs(120),
        every: Duration::from_secs(2),
        tokens: 96,
        questions: 256,
    };
    while let Some(arg) = args.next() {
        // Cargo's own.
        if arg == "--bench" {
            continue;
        }
        let value = args.next().and_then(|value| value.parse::<u32>().ok());
        let value = value.unwrap_or_else(|| panic!("{arg} needs a number"));
        match arg.as_str() {
            "--streams" => storm.streams = value as usize,
            "--groups" => storm.groups = value as usize,
            "--seconds" => storm.lasts = Duration::from_secs(value.into()),
            "--every-ms" => storm.every = Duration::from_millis(value.into()),
            "--tokens" => storm.tokens = value as usize,
            "--questions" => storm.questions = value as usize,
            _ => panic!("{arg}: see the top of benches/storm.rs"),
        }
    }
    storm
}
