//! Dependencies between our crates go downwards only, and `gateway` and `actors` never meet but in
//! `runtime::wire`.
//!
//! Read twice: what a manifest names, and what sources use, so that neither a dependency for tests
//! nor a path through another crate goes unseen.

use super::{source::has_word, tree::File};

/// Each crate's folder and what it may stand on. The root package may use all.
const FLOORS: [(&str, &[&str]); 4] = [
    ("runtime", &[]),
    ("gpu", &["runtime"]),
    ("actors", &["gpu", "runtime"]),
    ("gateway", &["runtime"]),
];

/// See above.
pub(crate) fn depend_downwards(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let Some((owner, allowed)) = floor_of(file) else {
            continue;
        };
        for (other, _) in FLOORS {
            if other == owner || allowed.contains(&other) {
                continue;
            }
            let used = if file.is_rust() {
                has_word(&file.code, &format!("troupe_{other}"))
            } else {
                manifest_names(&file.text, &format!("troupe-{other}"))
            };
            if used {
                let path = &file.path;
                complaints.push(format!("{path} uses {other}, but {owner} may use {allowed:?}"));
            }
        }
    }
    complaints
}

fn floor_of(file: &File) -> Option<(&'static str, &'static [&'static str])> {
    let (folder, rest) = file.path.split_once('/')?;
    let relevant = file.is_rust() || rest == "Cargo.toml";
    FLOORS.into_iter().find(|(owner, _)| *owner == folder && relevant)
}

/// Any mention but the package's own description counts.
fn manifest_names(manifest: &str, package: &str) -> bool {
    manifest
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#']) && !line.starts_with("description"))
        .any(|line| line.contains(package))
}

#[test]
fn upward_dependencies_are_found() {
    use super::check;
    let dependency = "[dependencies]\ntroupe-runtime.workspace = true\n";
    let good = ("gateway/Cargo.toml", dependency);
    check(depend_downwards, good, ("runtime/Cargo.toml", "[dev-dependencies.troupe-gpu]"));
    check(depend_downwards, good, ("actors/Cargo.toml", "x = { package = \"troupe-gateway\" }"));
    let good = ("actors/src/a.rs", "use troupe_gpu::executor::Executor; // troupe_gateway");
    check(depend_downwards, good, ("gateway/src/a.rs", "use troupe_actors::kv;"));
    check(depend_downwards, good, ("actors/tests/it/a.rs", "troupe_gateway::run()"));
    check(depend_downwards, good, ("gpu/src/a.rs", "fn f() -> troupe_actors::X"));
}
