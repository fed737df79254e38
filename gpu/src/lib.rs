//! Floor 1: devices, kernels, models, weights, KV memory, sampling and collectives.
//!
//! # Layout
//! - [`executor`]: the cut towards the actors: a batch in, hidden states or tokens out

pub mod error;
pub mod executor;
