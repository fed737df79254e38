//! What `MODEL` on a command line may be, and the files that a model's folder holds.
//!
//! A directory, a GGUF file, a `file://` URI of either, or a name on the Hugging Face hub
//! (`org/name`, `hf://org/name`, either with `@revision`), which is looked up in the local cache of
//! the hub's own tools. Nothing is downloaded: a model that is not here is an error that says what
//! to type.

mod files;
mod hub;

use std::path::{Path, PathBuf};

pub use self::{files::ModelFiles, hub::HubCache};
use super::{error::ModelError, gguf};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// What the user wrote.
    pub name: String,
    /// The folder on this machine, or a GGUF file, which is a folder in itself.
    pub folder: PathBuf,
}

impl ModelSource {
    /// Resolves what the user wrote. A directory of that name wins over a name on the hub.
    ///
    /// # Errors
    /// [`ModelError::Source`], saying what was looked for where and what to do.
    pub fn resolve(model: &str, cache: &HubCache) -> Result<Self, ModelError> {
        let found = |folder: PathBuf| Self { name: model.to_owned(), folder };
        if let Some(path) = model.strip_prefix("file://") {
            // `file://localhost/path` and `file:///path` are the same.
            let path = path.strip_prefix("localhost").unwrap_or(path);
            return directory(model, Path::new(path)).map(found);
        }
        if let Some(name) = model.strip_prefix("hf://") {
            return cache.find(name).map(found);
        }
        if let Some((scheme, _)) = model.split_once("://") {
            return Err(ModelError::Source(format!(
                "{model}: models cannot be read from {scheme}:// yet; copy the model's folder to \
                 this machine and name the folder"
            )));
        }
        let path = Path::new(model);
        if path.exists() || !hub::is_name(model) {
            return directory(model, path).map(found);
        }
        cache.find(model).map(found)
    }
}

fn directory(model: &str, path: &Path) -> Result<PathBuf, ModelError> {
    if path.is_dir() || (gguf::is_gguf(path) && path.is_file()) {
        return Ok(path.to_owned());
    }
    let what = match path.is_file() {
        true => {
            "is a file, and none whose name ends with `.gguf`; name the folder that holds \
             `config.json` and the weights"
        }
        false => {
            "is no folder on this machine, nor a name on the hub such as `org/name`; name the \
             folder that holds `config.json` and the weights"
        }
    };
    Err(ModelError::Source(format!("{model} {what}")))
}

#[cfg(test)]
mod tests;
