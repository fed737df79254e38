//! Where the golden models are: the committed selection, or the full set when
//! `TROUPE_GOLDEN_DIR` names it. Included by each crate's one integration-test binary.

use std::path::{Path, PathBuf};

/// The folder that holds `models/`, and in the full set also `tokenizers/` and the sampling
/// goldens.
#[allow(clippy::disallowed_methods, reason = "how whoever runs the tests says where")]
pub(crate) fn dir() -> PathBuf {
    match std::env::var_os("TROUPE_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|folder| folder.join("tests/golden"))
            .find(|folder| folder.is_dir())
            .expect("the repository has tests/golden"),
    }
}

/// A model's folder, if this set has it. The committed set is a selection.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let folder = dir().join("models").join(name);
    folder.join("config.json").is_file().then_some(folder)
}

/// An adapter's folder, if this set has it.
#[allow(dead_code, reason = "not every test binary has adapters")]
pub(crate) fn adapter(name: &str) -> Option<PathBuf> {
    let folder = dir().join("models").join(name);
    folder.join("adapter_config.json").is_file().then_some(folder)
}

/// A JSON file of the set, if it is there.
pub(crate) fn json(path: &str) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(dir().join(path)).ok()?;
    Some(serde_json::from_str(&text).expect("a golden file is JSON"))
}
