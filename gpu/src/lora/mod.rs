//! LoRA adapters: small additions to some of a model's products, which requests choose by name
//! (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).
//!
//! An adapter gives a product `W x` the addition `s * B (A x)`, with `A` of `rank` rows, `B` of
//! `rank` columns and a scaling `s`. Rows of many adapters, and rows without one, are in one batch.
//!
//! # Layout
//! - [`config`]: `adapter_config.json` as PEFT writes it; what cannot be served is refused by name
//! - [`targets`]: the products of a model that adapters may add to, with their sizes
//! - [`adapter`]: an adapter's files, every tensor of which was checked
//! - [`site`]: a product of this rank, and its share of an adapter's weights
//! - [`weights`]: what of an adapter a backend is given
//! - [`bank`]: the adapters that a rank knows, those on its device, and which rows of a step use
//!   them
//!
//! # Sharding
//! An adapter is divided as the product is that it adds to. Where outputs are divided, every rank
//! has all of `A` and the rows of `B` for its outputs; where inputs are divided, the columns of `A`
//! for its inputs and all of `B`, and the sum over ranks that the product takes anyway carries it.
//!
//! # Arithmetic
//! `A x` and `B (A x)` are in `f32` whatever the base is stored in, with `s` multiplied into `B`
//! when it is loaded, and are added to the finished product. Rows of one adapter are computed
//! together, but each is a function of itself alone.

pub mod adapter;
pub mod bank;
pub mod config;
pub mod site;
pub mod targets;
pub mod weights;

pub use self::{
    adapter::Adapter,
    bank::{Bank, LoraLimits},
};
