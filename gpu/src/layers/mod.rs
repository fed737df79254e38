//! Layers that know their rank: each takes the slice of its weights that is this rank's, and meets
//! the other ranks of its stage where a sum runs over all of them.
//!
//! # Layout
//! - [`loader`]: weights from a checkpoint onto the device, cut to this rank's share; `quantized`:
//!   those of a checkpoint that is quantized
//! - [`context`]: what layers work with: the device, the activations of the step, the other ranks
//! - [`linear`]: products that end in the residual stream, summed over ranks
//! - [`norm`], [`rotary`]: norms, and the frequencies of rotary position embedding
//! - [`attention`], [`mlp`]: the two halves of a decoder layer
//! - [`latent_attention`], [`experts`]: what some models have in their places
//! - [`embedding`], [`head`]: the two ends of a model, divided over the vocabulary; [`opening`],
//!   [`pooler`]: what an encoder has behind the one, and models for embeddings instead of the
//!   other; [`classifier`]: what makes scores of pairs
//!
//! # Where ranks meet
//! Twice in each decoder layer (after attention's and the MLP's output product), once after the
//! embedding and once for logits. Everything else is local. Sums are taken in rank order, so the
//! bits of a row do not depend on the batch.

pub mod attention;
pub mod classifier;
pub mod context;
pub mod embedding;
pub mod experts;
pub mod head;
pub mod latent_attention;
pub mod linear;
pub mod loader;
pub mod mlp;
pub mod norm;
pub mod opening;
pub mod pooler;
mod quantized;
pub mod rotary;
