//! Weights on disk: safetensors files, memory-mapped, of which a rank touches only its share.
//!
//! # Layout
//! - [`safetensors`]: one file: its header, parsed and checked by us, and its tensors
//! - [`checkpoint`]: all files of a model, single or listed in an index
//! - [`rename`]: the two ways in which checkpoints prefix their names
//! - [`shard`]: which rows, columns and heads are a rank's own
//! - [`reader`]: a checkpoint as one rank reads it: shapes checked, bytes counted; `survey`: all
//!   that does not fit, at once
//! - `map`: the one memory map, and the one `unsafe` of this folder
//!
//! A weight file comes from outside. Every number in it is checked before it is used, and an error
//! names file, tensor, what was expected and what was found.

pub mod checkpoint;
pub(crate) mod map;
pub mod reader;
pub mod rename;
pub mod safetensors;
pub mod shard;
mod survey;

pub use self::{
    checkpoint::Checkpoint,
    reader::{Held, Holding, WeightReader},
    safetensors::{RawTensor, Tensor},
    shard::{HeadShare, Shard},
};
