//! The highest epoch that this host has seen of each group, on disk.
//!
//! Written (to a new file, then renamed) before anything of an epoch is started, so that a host
//! that comes back never serves an incarnation older than one it has served.

use std::{collections::BTreeMap, io, path::Path};

use troupe_runtime::disk;

/// Reads the epochs; none if they were never written.
///
/// # Errors
/// A file that cannot be read, or that is not what was written.
pub(super) fn load(data_dir: &Path) -> io::Result<BTreeMap<String, u64>> {
    let Some(bytes) = disk::read(data_dir, FILE)? else { return Ok(BTreeMap::new()) };
    serde_json::from_slice(&bytes)
        .map_err(|error| disk::invalid(format!("{}: {error}", data_dir.join(FILE).display())))
}

/// Writes the epochs so that either all or none of them are there afterwards.
///
/// # Errors
/// A disk that is full or read-only, with the file's name.
pub(super) fn save(data_dir: &Path, epochs: &BTreeMap<String, u64>) -> io::Result<()> {
    disk::write(data_dir, FILE, &serde_json::to_vec(epochs)?)
}

const FILE: &str = "epochs.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_a_broken_file_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(load(dir.path()).expect("none yet").is_empty());
        let epochs: BTreeMap<_, _> = [("default/s-0".to_owned(), 7)].into();
        save(dir.path(), &epochs).expect("saved");
        assert_eq!(load(dir.path()).expect("loaded"), epochs);
        std::fs::write(dir.path().join(FILE), "nonsense").expect("written");
        let error = load(dir.path()).expect_err("broken");
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
