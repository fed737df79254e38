//! Weights that were quantized before we got them: GPTQ, AWQ, compressed-tensors, fp8, GGUF.
//!
//! Whatever tool made a checkpoint, a weight is `(code - zero) * scale`, or with eight-bit floats
//! `code * scale`, where outputs and groups of inputs have scales (and zeros) of their own. Each
//! format's file knows names and shapes of its tensors, and makes the same [`QuantizedPart`] of
//! them; no device knows a format.
//!
//! # Layout
//! - [`source`]: quantized weights as devices take them over, and what a rank takes
//! - [`layer`]: a layer of a checkpoint, by the format that it has
//! - [`codes`]: where codes lie in a file, read input by input
//! - [`tensors`]: a layer's tensors, checked against what the config implies
//! - [`gptq`], [`awq`], [`packed`], [`int8`], [`fp8`], [`gguf`]: the formats
//!
//! # Sharding
//! A rank takes a run of outputs or of inputs. Codes stay where they are in the mapped file; scales
//! and zeros are copied, those of the groups that its inputs belong to. A group may span ranks, and
//! with GPTQ's activation order any input may be of any group: each rank then keeps the scales of
//! every group that it touches.

pub mod awq;
pub mod codes;
pub mod fp8;
pub mod gguf;
pub mod gptq;
pub mod int8;
pub mod layer;
pub mod packed;
pub mod source;
pub mod tensors;

pub use self::{
    layer::{check, part, rounding},
    source::{Cut, InputRounding, QuantizedPart, QuantizedSource, Zeros},
};
