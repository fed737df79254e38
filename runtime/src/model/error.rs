//! What can be wrong with a model's files.
//!
//! These files come from outside, so each error says which file, which field, what stands there and
//! what could stand there: whoever reads it should be able to mend the file without reading ours.

use std::path::PathBuf;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is there but cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is larger than any honest file of its kind.
    #[error("{} is larger than {limit} bytes, the most such a file may have", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// A file is not JSON, or not an object, or nested too deeply.
    #[error("{} is not valid JSON", file.display())]
    Json {
        /// Which.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field holds what cannot be used.
    #[error("{}: `{field}` is {found}, but {expected}", file.display())]
    Field {
        /// In which file.
        file: PathBuf,
        /// The field, with dots where it is nested.
        field: String,
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: String,
    },
    /// A GGUF file is damaged, or has what is not read.
    #[error("{} is no GGUF file that can be used: {reason}", file.display())]
    Gguf {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The model cannot be divided over that many devices.
    #[error(transparent)]
    Sharding(#[from] super::sharding::ShardingError),
    /// `MODEL` names nothing, or could not be fetched.
    #[error("{0}")]
    Source(String),
    /// There is no copy of the model on this machine.
    #[error("{0}")]
    Away(String),
    /// A file that a model needs is not in its folder.
    #[error("{} has no {what}", folder.display())]
    Missing {
        /// The model's folder.
        folder: PathBuf,
        /// The file, in words.
        what: String,
    },
    /// The tokenizer's file is not understood.
    #[error("{} is not a tokenizer that can be used: {reason}", file.display())]
    Tokenizer {
        /// Which.
        file: PathBuf,
        /// Why not, in the words of the tokenizer library.
        reason: String,
    },
    /// Tokenizer and model do not belong together.
    #[error("the tokenizer {} does not fit the model: {reason}", file.display())]
    TokenizerMismatch {
        /// The tokenizer's file.
        file: PathBuf,
        /// What contradicts.
        reason: String,
    },
    /// A chat template is not well-formed.
    #[error("the chat template in {} is not usable: {reason}", file.display())]
    Template {
        /// Where it stands.
        file: PathBuf,
        /// Line and reason.
        reason: String,
    },
}
