//! What a gateway last knew, in a file of its data directory.
//!
//! It is written at most once a second, and only when something has changed. A gateway that cannot
//! write it serves all the same; one that cannot read it waits for the store as one without.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use troupe_runtime::{
    discovery::directory::{from_bytes, to_bytes},
    disk,
    error::chain,
};

/// Where something is kept; without a folder it is not.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    dir: Option<PathBuf>,
    name: &'static str,
}

/// What was known, and in which life of the store.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known<T> {
    /// The store's incarnation; none if it never said.
    pub(crate) life: Option<String>,
    /// By key in the store.
    pub(crate) entries: Vec<(String, T)>,
}

// === impl Kept ===

impl Kept {
    /// In this folder, under this name.
    pub(crate) fn new(dir: Option<PathBuf>, name: &'static str) -> Self {
        Self { dir, name }
    }

    /// What was kept; nothing if nothing was, or it cannot be read.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Known<T> {
        let nothing = Known { life: None, entries: Vec::new() };
        let Some(dir) = &self.dir else { return nothing };
        let read = disk::read(dir, self.name).map_err(|error| error.to_string());
        let known = read.and_then(|bytes| {
            let file = dir.join(self.name).display().to_string();
            let known = bytes.map(|bytes| from_bytes(&file, &bytes));
            known.transpose().map_err(|error| chain(&error))
        });
        match known {
            Ok(known) => known.unwrap_or(nothing),
            Err(error) => {
                tracing::warn!(error, "what was known of the cluster is not read");
                nothing
            }
        }
    }

    /// Keeps this instead of what was kept.
    pub(crate) async fn save<T>(&self, known: Known<T>)
    where
        T: Serialize + Send + 'static,
    {
        let Some(dir) = self.dir.clone() else { return };
        let name = self.name;
        let write = move || disk::write(&dir, name, &to_bytes(known));
        let written = tokio::task::spawn_blocking(write).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "a start without the store will know less");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_saved_is_loaded_and_nonsense_is_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let kept = Kept::new(Some(dir.path().to_owned()), "known.json");
        assert_eq!(kept.load::<u32>().entries, []);
        let known = Known { life: Some("one".into()), entries: vec![("k".to_owned(), 7_u32)] };
        kept.save(known.clone()).await;
        assert_eq!(kept.load::<u32>(), known);
        std::fs::write(dir.path().join("known.json"), "nonsense").expect("written");
        assert_eq!(kept.load::<u32>().entries, []);
        let nowhere = Kept::new(None, "known.json");
        nowhere.save(known).await;
        assert_eq!(nowhere.load::<u32>().entries, []);
    }
}
