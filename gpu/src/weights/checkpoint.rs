//! All weight files of a model folder: `model.safetensors`, or the files that
//! `model.safetensors.index.json` lists; or a GGUF file, which is a folder in itself.
//!
//! Every file is mapped and every name of the index is looked up at once, so that a missing or
//! damaged shard fails the load at its start on every rank, not later on one.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use troupe_runtime::model::gguf;

use super::safetensors::{RawTensor, Tensor, TensorFile};
use crate::error::DeviceError;

/// A model's weights, found by name.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// Which file has which tensor.
    index: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`, as far as it matters.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Maps all weight files in `folder`, or the file that it is.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] naming the file that is missing or wrong.
    pub fn open(folder: &Path) -> Result<Self, DeviceError> {
        if gguf::is_gguf(folder) && folder.is_file() {
            return Self::single(folder, folder.to_owned());
        }
        let index = folder.join(INDEX);
        if index.is_file() {
            return Self::indexed(folder, &index);
        }
        let single = folder.join(SINGLE);
        if !single.is_file() {
            let why = format!("there is neither {SINGLE} nor {INDEX}");
            return Err(DeviceError::Weights { path: folder.to_owned(), why });
        }
        Self::single(folder, single)
    }

    fn single(folder: &Path, file: PathBuf) -> Result<Self, DeviceError> {
        let file = TensorFile::open(file)?;
        let index = file.names().map(|name| (name.to_owned(), 0)).collect();
        Ok(Self { folder: folder.to_owned(), files: vec![file], index })
    }

    fn indexed(folder: &Path, path: &Path) -> Result<Self, DeviceError> {
        let fail = |why| DeviceError::Weights { path: path.to_owned(), why };
        let text = std::fs::read(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
        let Index { weight_map } = serde_json::from_slice(&text)
            .map_err(|error| fail(format!("is no index of weights: {error}")))?;
        let mut files: Vec<TensorFile> = Vec::new();
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut index = BTreeMap::new();
        for (name, file) in &weight_map {
            let number = match numbers.get(file.as_str()) {
                Some(&number) => number,
                None => {
                    if !is_plain_name(file) {
                        return Err(fail(format!("`{file}` is not a file name in its folder")));
                    }
                    files.push(TensorFile::open(folder.join(file))?);
                    numbers.insert(file, files.len() - 1);
                    files.len() - 1
                }
            };
            if !files[number].contains(name) {
                return Err(DeviceError::Weights {
                    path: files[number].path().to_owned(),
                    why: format!("tensor `{name}` is missing, though the index says it is here"),
                });
            }
            index.insert(name.clone(), number);
        }
        Ok(Self { folder: folder.to_owned(), files, index })
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Gives back the memory that tensors were read into; see [`TensorFile::release`].
    pub fn release(&self) {
        self.files.iter().for_each(TensorFile::release);
    }

    /// A tensor with the file that has it.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if there is none or it is of a type that nothing computes with.
    pub fn tensor(&self, name: &str) -> Result<(&Path, Tensor<'_>), DeviceError> {
        let file = self.file_with(name)?;
        Ok((file.path(), file.tensor(name)?))
    }

    /// A tensor of any type with the file that has it.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if there is none.
    pub fn raw(&self, name: &str) -> Result<(&Path, RawTensor<'_>), DeviceError> {
        let file = self.file_with(name)?;
        Ok((file.path(), file.raw(name)?))
    }

    fn file_with(&self, name: &str) -> Result<&TensorFile, DeviceError> {
        let Some(&number) = self.index.get(name) else {
            let path = match self.files.as_slice() {
                [only] => only.path().to_owned(),
                _ => self.folder.join(INDEX),
            };
            return Err(DeviceError::Weights { path, why: format!("tensor `{name}` is missing") });
        };
        Ok(&self.files[number])
    }
}

/// Whether a name from an index stays within its folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_within_the_folder_are_opened() {
        assert!(is_plain_name("model-00001-of-00003.safetensors"));
        for name in ["../model.safetensors", "/etc/passwd", "a/b", "..", ""] {
            assert!(!is_plain_name(name), "{name}");
        }
    }

    #[test]
    fn an_empty_folder_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(SINGLE) && error.contains(INDEX), "{error}");
    }
}
