//! What latent attention does before and behind its products: `latent.cu`.

use super::{Rows, by_type, geometry};
use crate::{
    cuda::{driver::Arg, kernels::Call},
    error::DeviceError,
};

/// The first elements of every head of `stride` elements: `[row][head]` becomes `[head][row]`.
pub(in crate::cuda) fn split_heads(
    (x, heads): (Rows, u32),
    stride: u32,
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "split_heads"),
        geometry: geometry([x.rows.into(), heads.into(), 1], 128, 0)?,
        args: vec![Arg::In(x.at), Arg::U32(stride), Arg::U32(out.columns), Arg::Out(out.at)],
    })
}

/// Whole heads back to `[row][head]`.
pub(in crate::cuda) fn merge_heads(
    x: Rows,
    (out, heads): (Rows, u32),
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "merge_heads"),
        geometry: geometry([out.rows.into(), heads.into(), 1], 128, 0)?,
        args: vec![Arg::In(x.at), Arg::U32(x.columns), Arg::Out(out.at)],
    })
}
