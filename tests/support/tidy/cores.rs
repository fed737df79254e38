//! Cores are pure: (state, input, now) to effects. What would make one depend on anything else
//! (a clock, a runtime, randomness, the order of a hash table) may not even be named in it.
//!
//! A core is a file called `core.rs`, or one of the list. Its tests may name anything.

use super::{source::has_word, tree::File};

/// Cores by other names; `*` stands for one file.
const CORES: [&str; 65] = [
    "actors/src/controller/adopt.rs",
    "actors/src/controller/autoscale.rs",
    "actors/src/controller/declared.rs",
    "actors/src/controller/desired.rs",
    "actors/src/controller/forecast.rs",
    "actors/src/controller/form.rs",
    "actors/src/controller/hosts.rs",
    "actors/src/controller/journal.rs",
    "actors/src/controller/memory.rs",
    "actors/src/controller/models.rs",
    "actors/src/controller/moves.rs",
    "actors/src/controller/offload.rs",
    "actors/src/controller/office.rs",
    "actors/src/controller/place.rs",
    "actors/src/controller/plan.rs",
    "actors/src/controller/quarantine.rs",
    "actors/src/controller/restart.rs",
    "actors/src/controller/revisions.rs",
    "actors/src/controller/rollout.rs",
    "actors/src/controller/scale.rs",
    "actors/src/controller/scale/*.rs",
    "actors/src/controller/service.rs",
    "actors/src/controller/status.rs",
    "actors/src/controller/tend.rs",
    "actors/src/controller/wishes.rs",
    "actors/src/controller/world.rs",
    "actors/src/group/lifecycle.rs",
    "actors/src/group/pace.rs",
    "actors/src/group/straggler.rs",
    "actors/src/host/admission.rs",
    "actors/src/host/fit.rs",
    "actors/src/host/rounds.rs",
    "actors/src/kv/*.rs",
    "actors/src/leader/ends.rs",
    "actors/src/leader/engine.rs",
    "actors/src/leader/fetch.rs",
    "actors/src/leader/ledger.rs",
    "actors/src/leader/load.rs",
    "actors/src/leader/prefill.rs",
    "actors/src/leader/rooted.rs",
    "actors/src/leader/transfers.rs",
    "actors/src/scheduler/*.rs",
    "actors/src/worker/mirror.rs",
    "actors/src/worker/reasoning.rs",
    "actors/src/worker/tier/load.rs",
    "actors/src/worker/transfer/export.rs",
    "actors/src/worker/transfer/import.rs",
    "gateway/src/flow/drain.rs",
    "gateway/src/flow/saturation.rs",
    "gateway/src/placement/config/*.rs",
    "gateway/src/placement/dice.rs",
    "gateway/src/placement/filter/*.rs",
    "gateway/src/placement/handler/*.rs",
    "gateway/src/placement/latency/*.rs",
    "gateway/src/placement/picker/*.rs",
    "gateway/src/placement/prefix/recent.rs",
    "gateway/src/placement/profile.rs",
    "gateway/src/placement/scene.rs",
    "gateway/src/placement/scorer/*.rs",
    "gateway/src/placement/session.rs",
    "gateway/src/placement/topology.rs",
    "gateway/src/rules/objects.rs",
    "gateway/src/rules/ranks.rs",
    "gateway/src/rules/routes.rs",
    "src/sim/*.rs",
];

/// What a core may not name, and why.
const FORBIDDEN: [(&str, &str); 11] = [
    ("async", "a core does not wait"),
    ("await", "a core does not wait"),
    ("tokio", "a core has no runtime"),
    ("ractor", "a core has no runtime"),
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime", "take `now` as an argument"),
    ("rand", "take a seed or a number as an argument"),
    ("thread_rng", "take a seed or a number as an argument"),
    ("HashMap", "its order is random: BTreeMap"),
    ("HashSet", "its order is random: BTreeSet"),
    ("env", "take settings as an argument"),
];

/// See above.
pub(crate) fn are_pure(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| is_core(&file.path)) {
        for (number, line) in file.product_lines() {
            for (word, why) in FORBIDDEN {
                if has_word(line, word) {
                    complaints.push(format!("{}:{number} names `{word}`: {why}", file.path));
                }
            }
        }
    }
    complaints
}

fn is_core(path: &str) -> bool {
    path.ends_with("/core.rs") || CORES.iter().any(|pattern| matches(pattern, path))
}

fn matches(pattern: &str, path: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let middle = path.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    middle.is_some_and(|name| !name.contains('/') && name != "actor")
}

#[test]
fn impure_cores_are_found() {
    use super::check;
    let good = (
        "actors/src/leader/engine.rs",
        "//! no async here\nuse std::collections::BTreeMap;\nfn strand() {}\n\
         #[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}\n",
    );
    check(are_pure, good, ("gateway/src/placement/core.rs", "pub async fn decide() {}"));
    check(are_pure, good, ("actors/src/kv/blocks.rs", "use std::collections::HashSet;"));
    check(are_pure, good, ("actors/src/scheduler/prefill.rs", "let now = Instant::now();"));
    check(are_pure, good, ("actors/src/worker/mirror.rs", "let x: u8 = rand::random();"));
    check(are_pure, good, ("actors/src/group/lifecycle.rs", "use tokio::time::Instant;"));
}

#[test]
fn patterns_stay_in_their_folder() {
    assert!(is_core("actors/src/kv/prefix.rs"));
    assert!(!is_core("actors/src/kv/tier/disk.rs"));
    assert!(!is_core("actors/src/scheduler/actor.rs"));
}
