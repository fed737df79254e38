//! Models in the local cache of the Hugging Face hub.
//!
//! The cache holds `models--org--name/snapshots/<commit>/<files>` and, per branch or tag,
//! `models--org--name/refs/<revision>` with the commit's id.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::model::{error::ModelError, json};

/// Where the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    folder: PathBuf,
}

impl HubCache {
    /// A cache in a folder (the one that holds `models--org--name`).
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where the hub's tools have it: `HF_HUB_CACHE`, else `HF_HOME/hub`, else under the home
    /// folder. Variables are asked of `variable`, so that only an edge reads the environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || path("HOME").unwrap_or_default().join(".cache/huggingface");
        let hub = || path("HF_HOME").unwrap_or_else(home).join("hub");
        Self::at(path("HF_HUB_CACHE").unwrap_or_else(hub))
    }

    /// The folder of `org/name` or `org/name@revision`.
    pub(super) fn find(&self, model: &str) -> Result<PathBuf, ModelError> {
        if !is_name(model) {
            return Err(ModelError::Source(format!(
                "{model} is no name on the hub: one looks like `org/name` or `org/name@revision`"
            )));
        }
        let (name, revision) = split(model);
        let repository = self.folder.join(format!("models--{}", name.replace('/', "--")));
        let commit = read_ref(&repository.join("refs").join(revision));
        let folder = repository.join("snapshots").join(commit.as_deref().unwrap_or(revision));
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(ModelError::Source(format!(
            "{model} is not on this machine: {} is not there. Downloading is not implemented yet: \
             run `hf download {name} --revision {revision}`, or name a folder that holds the model",
            folder.display()
        )))
    }
}

/// Whether a text can be `org/name` or `org/name@revision`. The characters are those that the hub
/// allows, which also keeps a name from leaving the cache's folder.
pub(super) fn is_name(text: &str) -> bool {
    let (name, revision) = split(text);
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(is_part) && revision.split('/').all(is_part)
}

fn split(model: &str) -> (&str, &str) {
    model.split_once('@').unwrap_or((model, "main"))
}

/// The commit that a branch or tag points to, if it is known here and well-formed.
fn read_ref(file: &Path) -> Option<String> {
    const COMMIT_CHARACTERS: u64 = 64;
    let bytes = json::read_bounded(file, COMMIT_CHARACTERS).ok()?;
    let commit = String::from_utf8(bytes).ok()?.trim().to_owned();
    let is_commit = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
    is_commit.then_some(commit)
}
