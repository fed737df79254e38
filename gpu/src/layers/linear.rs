//! The two kinds of products, by what of them is divided over ranks; both take on what adapters
//! add.
//!
//! Where *outputs* are divided, ranks need not meet. Where *inputs* are, at the end of each half of
//! a decoder layer, outputs are summed over ranks and added to the residual stream: with one rank
//! the backend adds to the residual as the product's epilogue; with several, partial sums leave the
//! device in `f32`, are added in rank order, and come back.

use std::ops::Range;

use super::{
    context::TensorGroup,
    loader::{Loader, RowPart},
};
use crate::{
    backend::{Backend, LinearCall},
    error::DeviceError,
    lora::{
        Bank,
        site::{Site, SiteId, SitePart},
    },
};

/// `out = x * weight^T (+ bias)` for this rank's part of the outputs.
#[derive(Debug)]
pub struct ColumnParallel<B: Backend> {
    weight: B::Linear,
    site: SiteId,
}

/// `residual += x * weight^T (+ bias)`, where `x` is this rank's part of the inputs.
#[derive(Debug)]
pub struct RowParallel<B: Backend> {
    weight: B::Linear,
    site: SiteId,
}

impl<B: Backend> ColumnParallel<B> {
    /// Loads several matrices as one, stacked in this order.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        in_features: usize,
        parts: &[RowPart],
    ) -> Result<Self, DeviceError> {
        let weight = loader.column_parallel(in_features, parts)?;
        let own = parts
            .iter()
            .map(|part| SitePart { product: part.name.clone(), outputs: part.own.clone() });
        let site = Site { inputs: 0..in_features, parts: own.collect() };
        Ok(Self { weight, site: loader.site(site) })
    }

    /// Puts the product into `out`.
    ///
    /// # Errors
    /// The backend's.
    pub fn store(
        &self,
        backend: &mut B,
        adapters: &Bank<B>,
        x: &B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let lora = &adapters.at(self.site);
        backend.linear(x, &self.weight, LinearCall { lora, ..LinearCall::STORE }, out)
    }
}

impl<B: Backend> RowParallel<B> {
    /// Loads `columns` of the `[out, in]` matrix `name`.
    ///
    /// # Errors
    /// As [`Loader::row_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        shape: (usize, usize),
        columns: Range<usize>,
        bias: bool,
    ) -> Result<Self, DeviceError> {
        let weight = loader.row_parallel(name, shape, columns.clone(), bias)?;
        let part = SitePart { product: name.to_owned(), outputs: 0..shape.0 };
        let site = loader.site(Site { inputs: columns, parts: vec![part] });
        Ok(Self { weight, site })
    }

    /// Adds the product to `residual`, the same on every rank.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn add_to(
        &self,
        backend: &mut B,
        group: &mut TensorGroup<B>,
        (x, adapters): (&B::Buffer, &Bank<B>),
        residual: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let lora = &adapters.at(self.site);
        if !group.shard().is_divided() {
            let call = LinearCall { lora, ..LinearCall::ADD_TO };
            return backend.linear(x, &self.weight, call, residual);
        }
        let peaks = group.input_peaks(backend, x, &self.weight)?;
        let call = LinearCall { peaks: peaks.as_deref(), lora, ..LinearCall::STORE };
        group.add_sum(backend, residual, |backend, partial| {
            backend.linear(x, &self.weight, call, partial)
        })
    }

    /// Puts the product into `out`, the same on every rank.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn store(
        &self,
        backend: &mut B,
        group: &mut TensorGroup<B>,
        (x, adapters): (&B::Buffer, &Bank<B>),
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let lora = &adapters.at(self.site);
        group.store_sum(backend, out, |backend, partial| {
            backend.linear(x, &self.weight, LinearCall { lora, ..LinearCall::STORE }, partial)
        })
    }

    /// Adds this rank's part of the product to `partial`: for what is summed over ranks together
    /// with something else.
    ///
    /// # Errors
    /// The backend's.
    pub fn add_part(
        &self,
        backend: &mut B,
        (x, adapters): (&B::Buffer, &Bank<B>),
        partial: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        let lora = &adapters.at(self.site);
        backend.linear(x, &self.weight, LinearCall { lora, ..LinearCall::ADD_TO }, partial)
    }
}
