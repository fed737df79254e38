//! Deterministic simulation: whole clusters from seeds, with everything that can go wrong.
//!
//! A failure prints its seed and the command that runs it again. `make soak` runs many more seeds.

#[path = "simulation/mod.rs"]
mod simulation;

use std::collections::BTreeMap;

use simulation::{
    faults::{BROKEN, Sabotage},
    run::{Report, run},
};

/// How many seeds are run, if `TROUPE_SEEDS` does not say.
const SEEDS: u64 = 300;
/// Within so many seeds a broken build is to be noticed.
const PATIENCE: u64 = 1000;

#[test]
fn seeds_are_clean() {
    let (first, count) =
        (number("TROUPE_SEED").unwrap_or(0), number("TROUPE_SEEDS").unwrap_or(SEEDS));
    let (mut faults, mut all) = (BTreeMap::new(), Report::default());
    let mut failed = Vec::new();
    for seed in first..first + count {
        let report = run(seed, Sabotage::None, false);
        for (fault, times) in &report.faults {
            *faults.entry(*fault).or_insert(0) += times;
        }
        all.trace.1 += report.trace.1;
        all.wishes += report.wishes;
        all.unfulfilled += report.unfulfilled;
        all.planned += report.planned;
        all.settled = all.settled.max(report.settled);
        if !report.complaints.is_empty() {
            failed.push(seed);
            let complaints = report.complaints.join("\n  ");
            eprintln!("seed {seed}: make seed SEED={seed}\n  {complaints}");
        }
    }
    let Report { wishes, unfulfilled, planned, settled, trace: (_, events), .. } = all;
    eprintln!(
        "{count} seeds: {events} events, {wishes} requests, {unfulfilled} of them with an error, \
         {planned} incarnations, settled within {settled:?}\n{faults:#?}"
    );
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1010 {
        let (one, two) = (run(seed, Sabotage::None, false), run(seed, Sabotage::None, false));
        assert_eq!(one, two, "seed {seed}");
        assert_ne!(one.trace, run(seed + 1, Sabotage::None, false).trace);
    }
}

/// A check that is taken out, or a block that is freed too early, does not stay unnoticed.
#[test]
fn broken_builds_are_caught() {
    for sabotage in BROKEN {
        let caught = (0..PATIENCE).find_map(|seed| {
            let complaints = run(seed, sabotage, false).complaints;
            complaints.into_iter().next().map(|complaint| (seed, complaint))
        });
        let (seed, complaint) = caught.unwrap_or_else(|| panic!("nobody notices {sabotage:?}"));
        eprintln!("{sabotage:?} is noticed at seed {seed}: {complaint}");
    }
}

/// One seed, with every event printed.
#[test]
#[ignore = "for a person: make seed SEED=n"]
fn replay() {
    let seed = number("TROUPE_SEED").expect("TROUPE_SEED says which");
    let report = run(seed, Sabotage::None, true);
    eprintln!("{report:#?}");
    assert!(report.complaints.is_empty(), "seed {seed}");
}

#[allow(clippy::disallowed_methods, reason = "how whoever runs the tests says which seeds")]
fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    text.to_str()?.parse().ok()
}
