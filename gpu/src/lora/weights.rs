//! What of an adapter a backend is given with a product.

use std::ops::Range;

use crate::backend::Backend;

/// Rows of a batch that use one adapter.
#[derive(Debug)]
pub struct LoraRows<'a, B: Backend + ?Sized> {
    /// The rows, ascending.
    pub rows: &'a [u32],
    /// What the adapter adds to the product.
    pub weights: &'a LoraWeights<B>,
}

/// What one adapter adds to one product: `up * (down * x)`, for some of its outputs. Both factors
/// are in `f32`, and so is what is between them.
#[derive(Debug)]
pub struct LoraWeights<B: Backend + ?Sized> {
    /// `[ranks of all parts, in]`: first factors, stacked.
    pub down: B::Linear,
    /// Second factors.
    pub up: Vec<LoraUp<B>>,
}

/// One second factor, with the adapter's scaling in it.
#[derive(Debug)]
pub struct LoraUp<B: Backend + ?Sized> {
    /// Which of the first factors' outputs it takes.
    pub ranks: Range<usize>,
    /// Which of the product's outputs it adds to.
    pub columns: Range<usize>,
    /// `[columns, ranks]`.
    pub weight: B::Linear,
}
