//! The product at the end of each half of a decoder layer: its inputs are divided over ranks, its
//! outputs are summed over them and added to the residual stream.
//!
//! With one rank the backend adds to the residual as the product's epilogue. With several, partial
//! sums leave the device in `f32`, are added in rank order, and come back. (Products whose
//! *outputs* are divided need no meeting; layers call the backend for those directly.)

use std::ops::Range;

use super::{context::TensorGroup, loader::Loader};
use crate::{
    backend::{Backend, LinearCall},
    error::DeviceError,
};

/// `residual += x * weight^T (+ bias)`, where `x` is this rank's part of the inputs.
#[derive(Debug)]
pub struct RowParallel<B: Backend> {
    weight: B::Linear,
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
        Ok(Self { weight: loader.row_parallel(name, shape, columns, bias)? })
    }

    /// Adds the product to `residual`, the same on every rank.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn add_to(
        &self,
        backend: &mut B,
        group: &mut TensorGroup<B>,
        x: &B::Buffer,
        residual: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        if !group.shard().is_divided() {
            return backend.linear(x, &self.weight, LinearCall::ADD_TO, residual);
        }
        let peaks = group.input_peaks(backend, x, &self.weight)?;
        let call = LinearCall { peaks: peaks.as_deref(), ..LinearCall::STORE };
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
        x: &B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        group.store_sum(backend, out, |backend, partial| {
            backend.linear(x, &self.weight, LinearCall::STORE, partial)
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
        x: &B::Buffer,
        partial: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        backend.linear(x, &self.weight, LinearCall::ADD_TO, partial)
    }
}
