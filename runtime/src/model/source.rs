//! What `MODEL` on a command line may be, and the files that a model's folder holds.
//!
//! A directory, a GGUF file, a `file://` URI of either, a name on the Hugging Face hub (`org/name`,
//! `hf://org/name`, either with `@revision`), a bucket (`s3://`, `gs://`) or a folder on a web
//! server (`https://`). Here they are looked up on this machine: as a folder, or as a copy in a
//! cache. [`fetch`](super::fetch) brings what is not here.

mod files;
mod hub;

use std::path::{Path, PathBuf};

pub use self::files::ModelFiles;
pub(crate) use self::files::{ModelDigest, WeightParts, weight_names};
pub use super::fetch::ModelAccess;
use super::{error::ModelError, fetch::copies, gguf};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// What the user wrote.
    pub name: String,
    /// The folder on this machine, or a GGUF file, which is a folder in itself.
    pub folder: PathBuf,
}

/// Where a model is, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A repository on the hub.
    Hub {
        /// `org/name`.
        name: String,
        /// A branch, a tag or a commit.
        revision: String,
    },
    /// A folder in a bucket.
    Bucket {
        /// `s3` or `gs`.
        scheme: &'static str,
        /// Bucket and folder.
        rest: String,
    },
    /// A folder on a web server.
    Web {
        /// The folder.
        url: String,
    },
}

impl Place {
    /// Reads what the user wrote. A directory of that name wins over a name on the hub.
    ///
    /// # Errors
    /// [`ModelError::Source`], saying what could stand there.
    pub(crate) fn of(model: &str) -> Result<Self, ModelError> {
        let Some((scheme, rest)) = model.split_once("://") else {
            let path = Path::new(model);
            if path.exists() || !hub::is_name(model) {
                return directory(model, path).map(Self::Folder);
            }
            return hub::place(model);
        };
        match scheme {
            // `file://localhost/path` and `file:///path` are the same.
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                directory(model, Path::new(path)).map(Self::Folder)
            }
            "hf" => hub::place(rest),
            "s3" => Ok(Self::Bucket { scheme: "s3", rest: rest.to_owned() }),
            "gs" => Ok(Self::Bucket { scheme: "gs", rest: rest.to_owned() }),
            "http" | "https" => Ok(Self::Web { url: model.to_owned() }),
            _ => Err(ModelError::Source(format!(
                "{model}: models are not read from {scheme}://; file://, hf://, s3://, gs:// and \
                 https:// are possible, and a folder on this machine"
            ))),
        }
    }
}

impl ModelSource {
    /// Finds a model on this machine.
    ///
    /// # Errors
    /// [`ModelError::Source`] on what names no model; [`ModelError::Away`] if there is no copy
    /// here, saying where one was looked for.
    pub fn resolve(model: &str, access: &ModelAccess) -> Result<Self, ModelError> {
        let folder = match Place::of(model)? {
            Place::Folder(folder) => folder,
            place => copies::find(model, &place, access)?,
        };
        Ok(Self { name: model.to_owned(), folder })
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
