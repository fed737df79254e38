//! A mixed load for a long time, with something going wrong every few seconds: `make soak-real`.
//!
//! ```text
//! cargo bench --bench soak -- [--minutes N] [--warm-up-minutes N] [--groups N] [--fault-ms N]
//!     [--rest-ms N]
//! ```
//! Streams (greedy, sampled, with a schema), several prompts at once, prompts of many tokens, and
//! clients that go away; leaders, workers, whole groups, nodes and the controller are killed or
//! frozen in turn, all but one group's. Every minute a line says what was asked and what each
//! long-lived process holds. It fails if an answer is lost or wrong, or if memory, files or threads
//! of a process grow faster than `load/soak.rs` allows after the warm-up. With the defaults it
//! takes about a third of a core. `tests/cluster/storm.rs` has a short one.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod stand;

use stand::{etcd_process, golden, http, joining, load, operator, process, question, random};
use tokio::time::Duration;

use load::soak::Soak;

fn main() -> std::process::ExitCode {
    let soak = asked(std::env::args().skip(1));
    println!("{soak:?}");
    let report = soak.run(|line| println!("{line}"));
    println!("{report}");
    let clean = report.failed.is_empty() && report.grown().is_empty() && report.right > 0;
    if clean { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn asked(mut args: impl Iterator<Item = String>) -> Soak {
    let minutes = |count: u32| Duration::from_secs(60 * u64::from(count));
    let mut soak = Soak {
        groups: 3,
        lasts: minutes(60),
        warm_up: minutes(10),
        faults: Duration::from_secs(5),
        looks: minutes(1),
        rest: Duration::from_millis(500),
    };
    while let Some(arg) = args.next() {
        // Cargo's own.
        if arg == "--bench" {
            continue;
        }
        let value = args.next().and_then(|value| value.parse::<u32>().ok());
        let value = value.unwrap_or_else(|| panic!("{arg} needs a number"));
        match arg.as_str() {
            "--minutes" => soak.lasts = minutes(value),
            "--warm-up-minutes" => soak.warm_up = minutes(value),
            "--groups" => soak.groups = value as usize,
            "--fault-ms" => soak.faults = Duration::from_millis(value.into()),
            "--rest-ms" => soak.rest = Duration::from_millis(value.into()),
            _ => panic!("{arg}: see the top of benches/soak.rs"),
        }
    }
    soak
}
