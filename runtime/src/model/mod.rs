//! What a model is without its weights: its config, its tokenizer, its chat template.
//!
//! # Layout
//! - [`card`]: [`ModelCard`](card::ModelCard), all of the below for one folder; begin here
//! - [`source`]: from `MODEL` on a command line to files on this machine, and their digests
//! - [`fetch`]: models that are not on this machine yet: from the hub, a bucket, a web server
//! - [`config`]: `config.json` and `generation_config.json` as typed values
//! - [`gguf`]: the same out of llama.cpp's one file
//! - [`sharding`]: over how many ranks a model can be divided
//! - [`tokenizer`], [`tokenizer_config`]: text to token ids and back
//! - [`detokenize`]: token ids to text as they come
//! - [`template`]: a conversation to the prompt that the model was trained on
//! - [`pooling`]: how states become a vector for a text, where that is what a model is run for
//! - [`grammar`]: which tokens may come next where the output's form is prescribed
//! - [`error`]: what can be wrong with a model's files
//!
//! Gateways and leaders read the same folder through this module, and compare digests of what they
//! read before they talk about tokens. Everything here is outside data: sizes are bounded, numbers
//! are checked, and an error names the file and the field.

pub mod card;
pub mod config;
pub mod detokenize;
pub mod error;
pub mod fetch;
pub mod gguf;
pub mod grammar;
mod guard;
mod json;
pub mod pooling;
pub mod sharding;
pub mod source;
pub mod template;
pub mod tokenizer;
pub mod tokenizer_config;
