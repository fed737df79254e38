//! Products `x * weight^T`: `product.cu` and `product_mma.cu`, whose common words are in
//! `product.cuh`.
//!
//! Sums of inputs have one order in all kernels of a type, so it changes no bit which of them a
//! step of few or many rows takes. (The vendor's library has orders of its own.)

use super::{Rows, code, geometry};
use crate::{
    cuda::{
        driver::{Arg, Region},
        kernels::Call,
    },
    dtype::Dtype,
    error::DeviceError,
};

/// Weights that are numbers, row by row without gaps.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Dense {
    /// `[outputs][inputs]`
    pub(in crate::cuda) at: Region,
    /// Of its elements.
    pub(in crate::cuda) dtype: Dtype,
    /// Rows.
    pub(in crate::cuda) outputs: u32,
    /// Elements of a row.
    pub(in crate::cuda) inputs: u32,
}

/// How a product ends.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cuda) struct Ending {
    /// `f32`, one for each output.
    pub(in crate::cuda) bias: Option<Region>,
    /// Whether to add to what is there.
    pub(in crate::cuda) add: bool,
}

/// The rows of several weights, each of which has its own.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Groups {
    /// What there is of each weight: its address, or more (`quantized.rs`).
    pub(in crate::cuda) weights: Region,
    /// Where the rows of each end.
    pub(in crate::cuda) ends: Region,
    /// How many there are.
    pub(in crate::cuda) count: u32,
    /// The most rows that one of them may have.
    pub(in crate::cuda) most_rows: u32,
}

/// `out = x * weight^T`, ended so.
pub(in crate::cuda) fn dense(
    x: Rows,
    weight: Dense,
    ending: Ending,
    out: Rows,
) -> Result<Call, DeviceError> {
    let product = arg(x, (Some(weight.at), None, None), (weight, ending, out));
    launch(x, weight, (x.rows, 1), product)
}

/// The same for each group's rows; weights are like `first`.
pub(in crate::cuda) fn grouped(
    x: Rows,
    groups: Groups,
    first: Dense,
    out: Rows,
) -> Result<Call, DeviceError> {
    let places = (None, Some(groups.weights), Some(groups.ends));
    let product = arg(x, places, (first, Ending::default(), out));
    launch(x, first, (groups.most_rows, groups.count), product)
}

/// Whether tensor cores multiply these.
pub(in crate::cuda) fn suits_mma(x: Dtype, weight: Dtype, inputs: u32) -> bool {
    x == weight && x != Dtype::F32 && inputs.is_multiple_of(8)
}

/// So many rows are few: each weight is read once for all of them.
pub(in crate::cuda) const FEW_ROWS: u32 = 16;

fn launch(
    x: Rows,
    weight: Dense,
    (rows, groups): (u32, u32),
    product: Arg,
) -> Result<Call, DeviceError> {
    let is_f16 = x.dtype == Dtype::F16;
    let (name, tile, threads) = match suits_mma(x.dtype, weight.dtype, weight.inputs) {
        true if rows <= FEW_ROWS => {
            (if is_f16 { "product_few_f16" } else { "product_few_bf16" }, (16, 16), 256)
        }
        true => (if is_f16 { "product_many_f16" } else { "product_many_bf16" }, (64, 64), 128),
        false => ("product_any", (32, 32), 256),
    };
    let (outputs, rows) = (u64::from(weight.outputs), u64::from(rows));
    let grid = [outputs.div_ceil(tile.0), rows.div_ceil(tile.1), groups.into()];
    Ok(Call { name, geometry: geometry(grid, threads, 0)?, args: vec![product] })
}

/// The structure that all product kernels take: one weight, or an array of their addresses, and
/// where the rows of each end.
pub(super) fn arg(
    x: Rows,
    (weight, weights, ends): (Option<Region>, Option<Region>, Option<Region>),
    (shape, ending, out): (Dense, Ending, Rows),
) -> Arg {
    Arg::Struct(vec![
        Arg::In(x.at),
        weight.map_or(Arg::Null, Arg::In),
        weights.map_or(Arg::Null, Arg::In),
        ending.bias.map_or(Arg::Null, Arg::In),
        Arg::Out(out.at),
        ends.map_or(Arg::Null, Arg::In),
        Arg::U32(x.rows),
        Arg::U32(shape.inputs),
        Arg::U32(shape.outputs),
        Arg::U32(shape.inputs),
        Arg::U32(code(x.dtype)),
        Arg::U32(code(shape.dtype)),
        Arg::U32(code(out.dtype)),
        Arg::U32(ending.add.into()),
    ])
}
