//! From a model's text to what it means: reasoning, content and tool calls.
//!
//! Models write all three into one text, each family in its own way. One parser reads it as it
//! comes, character by character, and says [`Piece`]s; a whole answer is the fold of the same
//! pieces, so a stream and a whole answer never differ, and neither depends on how the text was
//! cut. Nothing of the text is lost: what begins like a tool call and is none comes back as
//! content. What is held back is bounded.
//!
//! - [`piece`]: what comes out
//! - [`reply`]: the whole parser: [`reasoning`] first, then [`tools`] on what is left
//! - [`tools`]: where a call begins, when it is told ([`draft`]), what happens to one that is none
//! - [`family`]: the table of families: markers, readers, how a model's is recognized
//! - one file per way of writing calls: [`hermes`], [`llama`], [`mistral`], [`qwen3_coder`],
//!   [`pythonic`], and [`forced`] for calls that a grammar forces
//! - [`object`], [`array`], [`json`]: a call as a JSON object, several in an array, JSON by itself
//! - [`marker`]: texts that may come in parts
//!
//! The published crates for this (tool-parser, reasoning-parser) were looked at first: they parse
//! whole texts and streams by different code, which is the very fault to be avoided.

mod array;
mod draft;
pub(crate) mod family;
mod forced;
mod hermes;
mod json;
mod llama;
mod marker;
mod mistral;
mod object;
pub(crate) mod piece;
mod pythonic;
mod qwen3_coder;
pub(crate) mod reasoning;
pub(crate) mod reply;
#[cfg(test)]
mod tests;
mod tools;
