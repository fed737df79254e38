//! How kernels are launched: which one, with how many blocks, and with which arguments, as plain
//! functions of sizes and places. Nothing here asks a device anything.
//!
//! Each function is the counterpart of the comment above a kernel in `gpu/kernels`, and the regions
//! that it passes are as long as what that kernel reads or writes. Tests run whole models over the
//! fake driver, which holds every launch against the kernels' declarations.
//!
//! - `rows`: element by element, norms, embeddings; [`kv`]: what moves keys and values
//! - [`attention`]: over the KV; [`product`]: linear layers; [`quantized`]: those of few bits
//! - `moe`: experts

pub(super) mod attention;
pub(super) mod kv;
pub(super) mod latent;
pub(super) mod moe;
pub(super) mod product;
pub(super) mod quantized;
pub(super) mod rows;

use super::driver::{Geometry, Region};
use crate::{dtype::Dtype, error::DeviceError};

/// Rows of activations on the device, without gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    /// All of them.
    pub(super) at: Region,
    /// How many.
    pub(super) rows: u32,
    /// Elements of each.
    pub(super) columns: u32,
    /// Their type.
    pub(super) dtype: Dtype,
}

impl Rows {
    /// `rows` of them from the `first` on, which are there.
    pub(super) fn part(&self, first: u32, rows: u32) -> Self {
        let row = u64::from(self.columns) * self.dtype.size() as u64;
        let address = self.at.address.after(u64::from(first) * row);
        Self { at: Region { address, bytes: u64::from(rows) * row }, rows, ..*self }
    }

    /// Elements of all rows.
    pub(super) fn elements(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.columns)
    }
}

/// The kernel of a family for a type of activations.
macro_rules! by_type {
    ($dtype:expr, $stem:literal) => {
        match $dtype {
            $crate::dtype::Dtype::Bf16 => concat!($stem, "_bf16"),
            $crate::dtype::Dtype::F16 => concat!($stem, "_f16"),
            $crate::dtype::Dtype::F32 => concat!($stem, "_f32"),
        }
    };
}
use by_type;

/// An element type as kernels are told it.
pub(super) fn code(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::Bf16 => 0,
        Dtype::F16 => 1,
        Dtype::F32 => 2,
    }
}

/// Bytes as kernels are told of them.
pub(super) const CODE_INT8: u32 = 3;
/// "There is none", in tables.
pub(super) const NONE: u32 = u32::MAX;

/// So many blocks in x (and y, z) of so many threads; none of them is a launch that is left out.
fn geometry(grid: [u64; 3], threads: u32, shared: u64) -> Result<Geometry, DeviceError> {
    let fits = |n: u64| u32::try_from(n).ok();
    let [x, y, z] = grid.map(fits);
    match (x, y, z, u32::try_from(shared)) {
        (Some(x), Some(y), Some(z), Ok(shared)) => {
            Ok(Geometry { grid: [x, y, z], block: [threads, 1, 1], shared })
        }
        _ => {
            Err(DeviceError::Contract(format!("a launch of {grid:?} blocks, {shared} bytes each")))
        }
    }
}

/// A size as kernels are told it.
pub(super) fn number(size: usize) -> Result<u32, DeviceError> {
    u32::try_from(size).map_err(|_| DeviceError::Contract(format!("a size of {size}")))
}
