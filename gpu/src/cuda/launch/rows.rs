//! Kernels that go row by row or element by element: `rows.cu` and `norm.cu`.

use super::{Rows, by_type, code, geometry};
use crate::{
    cuda::{
        driver::{Arg, Region},
        kernels::Call,
    },
    dtype::Dtype,
    error::DeviceError,
};

/// A table of rows that tokens choose from.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Table {
    /// Its rows without gaps.
    pub(in crate::cuda) at: Region,
    /// Of its elements.
    pub(in crate::cuda) dtype: Dtype,
    /// How many.
    pub(in crate::cuda) rows: u32,
    /// Elements of each.
    pub(in crate::cuda) columns: u32,
}

/// `out[r] = table[tokens[r] - first_token]`, zeros for tokens that it does not have.
pub(in crate::cuda) fn embed(
    tokens: Region,
    table: Table,
    first_token: u32,
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(out.dtype, "embed"),
        geometry: geometry([out.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![
            Arg::In(tokens),
            Arg::In(table.at),
            Arg::U32(code(table.dtype)),
            Arg::U32(table.columns),
            Arg::U32(first_token),
            Arg::U32(table.rows),
            Arg::U32(out.columns),
            Arg::Out(out.at),
        ],
    })
}

/// `out[i] = x[rows[i]]`.
pub(in crate::cuda) fn gather(x: Rows, rows: Region, out: Rows) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "gather_rows"),
        geometry: geometry([out.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![Arg::In(x.at), Arg::In(rows), Arg::U32(x.columns), Arg::Out(out.at)],
    })
}

/// How a gate is bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Gate {
    /// `x / (1 + e^-x)`.
    Silu,
    /// The Gaussian error linear unit, approximated.
    Gelu,
}

/// `out = bent(gate) * up` of rows `[gate | up]`.
pub(in crate::cuda) fn gate(gate: Gate, gate_up: Rows, out: Rows) -> Result<Call, DeviceError> {
    let name = match gate {
        Gate::Silu => by_type!(out.dtype, "silu_mul"),
        Gate::Gelu => by_type!(out.dtype, "gelu_mul"),
    };
    Ok(Call {
        name,
        geometry: geometry([out.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![Arg::In(gate_up.at), Arg::U32(out.columns), Arg::Out(out.at)],
    })
}

/// `x *= factor`.
pub(in crate::cuda) fn scale(x: Rows, factor: f32, units: u32) -> Result<Call, DeviceError> {
    let args = vec![Arg::Out(x.at), Arg::U64(x.elements()), Arg::F32(factor)];
    over_elements(by_type!(x.dtype, "scale"), x, units, args)
}

/// `x` times the share of a normal distribution below it.
pub(in crate::cuda) fn gelu(x: Rows, units: u32) -> Result<Call, DeviceError> {
    let args = vec![Arg::Out(x.at), Arg::U64(x.elements())];
    over_elements(by_type!(x.dtype, "gelu"), x, units, args)
}

/// `x = cap * tanh(x / cap)`.
pub(in crate::cuda) fn soft_cap(x: Rows, cap: f32, units: u32) -> Result<Call, DeviceError> {
    let args = vec![Arg::Out(x.at), Arg::U64(x.elements()), Arg::F32(cap)];
    over_elements(by_type!(x.dtype, "soft_cap"), x, units, args)
}

/// `out += x`.
pub(in crate::cuda) fn add(x: Rows, out: Rows, units: u32) -> Result<Call, DeviceError> {
    let args = vec![Arg::In(x.at), Arg::U64(x.elements()), Arg::Out(out.at)];
    over_elements(by_type!(x.dtype, "add"), x, units, args)
}

/// `out = x` in `f32`.
pub(in crate::cuda) fn widen(x: Rows, out: Rows, units: u32) -> Result<Call, DeviceError> {
    let args = vec![Arg::In(x.at), Arg::U64(x.elements()), Arg::Out(out.at)];
    over_elements(by_type!(x.dtype, "widen"), x, units, args)
}

/// `out = norm(x)`.
pub(in crate::cuda) fn rms_norm(
    x: Rows,
    (weight, epsilon): (Region, f32),
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "rms_norm"),
        geometry: geometry([x.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![
            Arg::In(x.at),
            Arg::In(weight),
            Arg::F32(epsilon),
            Arg::U32(x.columns),
            Arg::Out(out.at),
        ],
    })
}

/// `out = (x - mean) / sqrt(variance + epsilon) * weight + bias`.
pub(in crate::cuda) fn layer_norm(
    x: Rows,
    ([weight, bias], epsilon): ([Region; 2], f32),
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "layer_norm"),
        geometry: geometry([x.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![
            Arg::In(x.at),
            Arg::In(weight),
            Arg::In(bias),
            Arg::F32(epsilon),
            Arg::U32(x.columns),
            Arg::Out(out.at),
        ],
    })
}

/// `residual += x`, then `out = norm(residual)`.
pub(in crate::cuda) fn add_rms_norm(
    (x, residual): (Rows, Rows),
    (weight, epsilon): (Region, f32),
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "add_rms_norm"),
        geometry: geometry([x.rows.into(), 1, 1], THREADS, 0)?,
        args: vec![
            Arg::In(x.at),
            Arg::Out(residual.at),
            Arg::In(weight),
            Arg::F32(epsilon),
            Arg::U32(x.columns),
            Arg::Out(out.at),
        ],
    })
}

/// Norms each of `heads` runs of `head_dim` columns from `first` on, in place.
pub(in crate::cuda) fn head_rms_norm(
    x: Rows,
    (first, heads, head_dim): (u32, u32, u32),
    (weight, epsilon): (Region, f32),
) -> Result<Call, DeviceError> {
    let columns = u64::from(heads).div_ceil(8);
    Ok(Call {
        name: by_type!(x.dtype, "head_rms_norm"),
        geometry: geometry([x.rows.into(), columns, 1], THREADS, 0)?,
        args: vec![
            Arg::Out(x.at),
            Arg::U32(x.columns),
            Arg::U32(first),
            Arg::U32(heads),
            Arg::U32(head_dim),
            Arg::In(weight),
            Arg::F32(epsilon),
        ],
    })
}

/// A launch whose blocks share elements out among them; `units` multiprocessors are to be busy.
fn over_elements(
    name: &'static str,
    x: Rows,
    units: u32,
    args: Vec<Arg>,
) -> Result<Call, DeviceError> {
    let blocks = (x.elements() / 1024 + 1).min(8 * u64::from(units.max(1)));
    Ok(Call { name, geometry: geometry([blocks, 1, 1], THREADS, 0)?, args })
}

const THREADS: u32 = 256;
