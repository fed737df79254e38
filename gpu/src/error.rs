//! What can go wrong on a device or while loading a model onto it.

use std::path::PathBuf;

/// A failure of floor 1. It ends the rank that met it; the member reports it as its cause.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The model cannot be run like this (sharding, type, architecture). Says what would work.
    #[error("{0}")]
    Unsupported(String),
    /// A weight file is missing, cut short or not what the config says.
    #[error("weights in {path}: {why}")]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// It does not fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Ranks did not meet in a collective, or a neighbour is gone.
    #[error("collective failed: {0}")]
    Collective(String),
    /// The device itself failed.
    #[error("device failed: {0}")]
    Failed(String),
    /// A caller broke the contract: a bug of ours.
    #[error("contract broken: {0}")]
    Contract(String),
}
