//! What faults cost, measured where they are real: processes of the real binary on hosts of their
//! own, a real etcd, clients that stream without a pause. Each fault is played many times, and of
//! each time it is written down how soon the cluster noticed, how soon the next token came, and
//! what was lost.
//!
//! ```text
//! make chaos              20 runs of every fault; writes the table of docs/reliability.md
//! make chaos RUNS=3 FAULTS=frozen,cut     fewer, and of some faults only; writes nothing
//! ```
//! The whole takes three quarters of an hour and the machine to itself, so it is no part of
//! `make test`: the test is ignored unless it is asked for. A few faults, once each, are: or the
//! suite would be found broken on the day that it is needed. How fast anything is they do not
//! judge.

#[path = "chaos/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "simulation/dice.rs"]
mod dice;
#[path = "chaos/disk.rs"]
mod disk;
#[allow(dead_code)]
#[path = "support/etcd.rs"]
mod etcd_process;
#[path = "chaos/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "support/http.rs"]
mod http;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/memory.rs"]
mod memory;
#[allow(dead_code)]
#[path = "support/hosts.rs"]
mod network;
#[allow(dead_code)]
#[path = "support/operator.rs"]
mod operator;
#[path = "support/picker.rs"]
mod picker;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;
#[path = "chaos/relay.rs"]
mod relay;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/signs.rs"]
mod signs;
#[path = "support/skip.rs"]
mod skip;
#[path = "chaos/table.rs"]
mod table;

use cluster::Cluster;
use faults::{FAULTS, Fault};
use load::Load;
use run::Figures;
use table::Row;

/// How often each fault is played if `RUNS` does not say.
const RUNS: usize = 20;
/// What `make test` plays.
const SAMPLE: [&str; 4] =
    ["leader killed", "worker frozen", "host is not heard", "controller killed"];

#[test]
fn a_sample_of_faults_costs_no_request_and_no_token() {
    let Some(mut stage) = Stage::start() else { return };
    for fault in FAULTS.iter().filter(|fault| SAMPLE.contains(&fault.name)) {
        let figures = stage.play(fault, 0).unwrap_or_else(|why| panic!("{}: {why}", fault.name));
        assert!(figures.noticed.is_some(), "{}: nobody noticed", fault.name);
        let Figures { lost, wrong, .. } = &figures;
        assert!(lost.is_empty() && *wrong == 0, "{}: {figures:?}", fault.name);
    }
}

#[test]
#[ignore = "takes three quarters of an hour: `make chaos`"]
fn the_whole_table() {
    let runs = setting("RUNS").map_or(RUNS, |text| text.parse().expect("RUNS is a number"));
    let some: Vec<String> =
        setting("FAULTS").iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
    let is_asked =
        |fault: &Fault| some.is_empty() || some.iter().any(|part| fault.name.contains(part));
    let mut stage = Stage::start().expect("root makes hosts out of network namespaces");
    let mut failed = Vec::new();
    let asked = FAULTS.iter().filter(|fault| is_asked(fault));
    let mut rows: Vec<_> =
        asked.map(|fault| (fault, Row { name: fault.name, runs: Vec::new() })).collect();
    // Round by round, so that faults meet what others have left, and a table that was broken off is
    // one of fewer runs.
    for turn in 0..runs {
        for (fault, row) in &mut rows {
            match stage.play(fault, turn) {
                Ok(figures) => {
                    say(&format!("{}, run {turn}: {figures}", fault.name));
                    row.runs.push(figures);
                }
                Err(why) => {
                    say(&format!("{}, run {turn}: {why}", fault.name));
                    failed.push(format!("{}, run {turn}: {why}", fault.name));
                    // Whatever state it is in: the next run begins with another.
                    drop(stage);
                    stage = Stage::start().expect("hosts can be made");
                }
            }
        }
        if some.is_empty() {
            table::publish(rows.iter().map(|(_, row)| row), turn + 1);
        }
    }
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    say(&table::table(&rows));
    let misses: Vec<String> = rows.iter().flat_map(Row::misses).chain(failed.clone()).collect();
    misses.iter().for_each(|miss| say(miss));
    let damaged = rows.iter().any(|row| row.lost() + row.wrong() > 0);
    assert!(!damaged && failed.is_empty(), "requests or tokens were lost:\n{}", misses.join("\n"));
}

/// A cluster under load.
struct Stage {
    // In this order: who asks ends first.
    load: Load,
    cluster: Cluster,
}

impl Stage {
    fn start() -> Option<Self> {
        let cluster = Cluster::start()?;
        let began = tokio::time::Instant::now();
        let load = Load::start(&cluster.addresses());
        process::until("every client is answered", || load.answered_since(began));
        Some(Self { load, cluster })
    }

    fn play(&mut self, fault: &Fault, turn: usize) -> Result<Figures, String> {
        run::run(&mut self.cluster, &self.load, fault, turn)
    }
}

#[expect(clippy::print_stdout, reason = "what a person asked for, run by run")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::disallowed_methods, reason = "says how the suite is to be run, like a flag")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
