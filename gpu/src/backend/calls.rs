//! What operations are called with beside buffers: weights of norms, of latent attention, the place
//! of a layer's KV. They hold references only and are copied freely.

use super::Backend;
use crate::shape::{KvAt, LatentShape};

/// A norm's weights and its epsilon.
#[derive(Debug)]
pub struct Norm<'a, B: Backend + ?Sized> {
    /// One factor per element.
    pub weight: &'a B::Vector,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// A layer norm's weights and its epsilon.
#[derive(Debug)]
pub struct LayerNorm<'a, B: Backend + ?Sized> {
    /// One factor per element.
    pub weight: &'a B::Vector,
    /// Added to each element behind it.
    pub bias: &'a B::Vector,
    /// Added to the variance.
    pub epsilon: f32,
}

/// What latent attention is called with beside rows and KV.
#[derive(Debug)]
pub struct LatentCall<'a, B: Backend + ?Sized> {
    /// This rank's heads.
    pub shape: LatentShape,
    /// What scores are multiplied by before softmax.
    pub scale: f32,
    /// Rotary tables of `rope_dim / 2` pairs.
    pub rope: &'a B::Rope,
    /// For each head what turns its query's first part into the rows' space: `[rank, nope_dim]`.
    pub absorb: &'a [B::Linear],
    /// For each head what turns compressed values into its own: `[value_dim, rank]`.
    pub expand: &'a [B::Linear],
}

/// A step and the layer whose KV it works on.
#[derive(Debug)]
pub struct KvStep<'a, B: Backend + ?Sized> {
    /// The prepared step.
    pub meta: &'a B::StepMeta,
    /// Group and layer.
    pub at: KvAt,
}

// Derives would ask `B: Copy`, though only references are held.
impl<B: Backend + ?Sized> Clone for Norm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for Norm<'_, B> {}

impl<B: Backend + ?Sized> Clone for LayerNorm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for LayerNorm<'_, B> {}

impl<B: Backend + ?Sized> Clone for KvStep<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for KvStep<'_, B> {}

impl<B: Backend + ?Sized> Clone for LatentCall<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for LatentCall<'_, B> {}
