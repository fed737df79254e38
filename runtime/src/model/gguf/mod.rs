//! GGUF: llama.cpp's one file for everything. Its header is read here into what other modules take
//! from a model's folder: a config, a tokenizer, a chat template, and where tensors are.
//!
//! # Layout
//! - [`header`]: the file's own structure, parsed and bounded
//! - [`config`]: metadata as `config.json` would say it
//! - [`vocabulary`]: the vocabulary as `tokenizer.json` would say it
//! - [`names`]: llama.cpp's names of tensors and the published ones
//!
//! Metadata becomes the JSON of the other files instead of their typed values, so that one place
//! checks fields and resolves defaults, whoever wrote them.

mod config;
pub mod header;
mod names;
mod vocabulary;

use std::path::Path;

pub use self::header::{Gguf, TensorInfo, TensorKind};
use super::error::ModelError;

/// Whether a path names such a file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

fn wrong(file: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Gguf { file: file.to_owned(), reason: reason.into() }
}
