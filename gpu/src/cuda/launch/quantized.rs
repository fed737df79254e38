//! Weights of few bits and activations rounded to eight: `coded.cu`, `integers.cu`, `quantize.cu`.

use super::{
    Rows, by_type, geometry,
    product::{self, FEW_ROWS, Groups},
};
use crate::{
    cuda::{
        driver::{Arg, Geometry, Region},
        kernels::Call,
    },
    dtype::Dtype,
    error::DeviceError,
    quant::InputRounding,
};

/// Codes of a checkpoint with their scales.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Codes {
    /// `[outputs][stride]` words.
    pub(in crate::cuda) words: Region,
    /// `[outputs][groups]`
    pub(in crate::cuda) scales: Region,
    /// The same, where groups have zeros of their own.
    pub(in crate::cuda) offsets: Option<Region>,
    /// The group of each input.
    pub(in crate::cuda) group_of: Region,
    /// What stands for zero without offsets.
    pub(in crate::cuda) zero: f32,
    /// 4 and 8 are bits, 9 is eight-bit floats.
    pub(in crate::cuda) kind: u32,
    /// Words of an output.
    pub(in crate::cuda) stride: u32,
    /// Groups of inputs.
    pub(in crate::cuda) groups: u32,
}

/// Integers that weights were rounded to.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Integers {
    /// `[outputs][blocks of 64 inputs]`
    pub(in crate::cuda) words: Region,
    /// `[outputs]`, or `[outputs][blocks]` with four bits.
    pub(in crate::cuda) scales: Region,
    /// Blocks of 64 inputs.
    pub(in crate::cuda) blocks: u32,
    /// 8 or 4.
    pub(in crate::cuda) bits: u32,
}

/// Rows rounded to signed bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Bytes {
    /// `[rows][stride]`
    pub(in crate::cuda) codes: Region,
    /// `[rows]`
    pub(in crate::cuda) scales: Region,
    /// Bytes of a row.
    pub(in crate::cuda) stride: u32,
}

/// A linear layer's size and ending, whatever its weights are.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Shape {
    /// Elements of an input row.
    pub(in crate::cuda) inputs: u32,
    /// Elements of an output row.
    pub(in crate::cuda) outputs: u32,
    /// Bias, and whether to add.
    pub(in crate::cuda) ending: product::Ending,
}

impl Codes {
    /// The structure that kernels take.
    pub(in crate::cuda) fn arg(&self) -> Arg {
        Arg::Struct(vec![
            Arg::In(self.words),
            Arg::In(self.scales),
            self.offsets.map_or(Arg::Null, Arg::In),
            Arg::In(self.group_of),
            Arg::F32(self.zero),
            Arg::U32(self.kind),
            Arg::U32(self.stride),
            Arg::U32(self.groups),
            Arg::U32(1),
            Arg::U32(0),
        ])
    }
}

/// Whether there is a kernel that multiplies codes where they lie.
pub(in crate::cuda) fn multiplies_codes(x: Dtype, inputs: u32) -> bool {
    x != Dtype::F32 && inputs.is_multiple_of(8)
}

/// `out = x * codes^T` of half-precision activations.
pub(in crate::cuda) fn coded(
    x: Rows,
    codes: &Codes,
    shape: Shape,
    out: Rows,
) -> Result<Call, DeviceError> {
    let name = match x.dtype {
        Dtype::Bf16 => "product_coded_bf16",
        Dtype::F16 => "product_coded_f16",
        Dtype::F32 => return Err(DeviceError::Contract("coded products of float32".into())),
    };
    let grid = [u64::from(shape.outputs).div_ceil(16), u64::from(x.rows).div_ceil(16), 1];
    let product = empty_product(x, shape, None, out);
    Ok(Call { name, geometry: geometry(grid, 256, 0)?, args: vec![product, codes.arg()] })
}

/// The same for each group's rows, whose codes ([`Codes::arg`]) are in an array.
pub(in crate::cuda) fn coded_groups(
    x: Rows,
    groups: Groups,
    shape: Shape,
    out: Rows,
) -> Result<Call, DeviceError> {
    let name = match x.dtype {
        Dtype::Bf16 => "product_coded_groups_bf16",
        Dtype::F16 => "product_coded_groups_f16",
        Dtype::F32 => return Err(DeviceError::Contract("coded products of float32".into())),
    };
    let rows = u64::from(groups.most_rows).div_ceil(16);
    let grid = [u64::from(shape.outputs).div_ceil(16), rows, groups.count.into()];
    let product = empty_product(x, shape, Some(groups.ends), out);
    let args = vec![product, Arg::In(groups.weights)];
    Ok(Call { name, geometry: geometry(grid, 256, 0)?, args })
}

/// `out [outputs][inputs]` = the weights as numbers.
pub(in crate::cuda) fn decode(codes: &Codes, inputs: u32, out: Rows) -> Result<Call, DeviceError> {
    let grid = [out.rows.into(), u64::from(inputs).div_ceil(1024), 1];
    Ok(Call {
        name: by_type!(out.dtype, "decode"),
        geometry: geometry(grid, 128, 0)?,
        args: vec![codes.arg(), Arg::U32(inputs), Arg::Out(out.at)],
    })
}

/// As [`super::rows::embed`] from a coded table of `rows` rows.
pub(in crate::cuda) fn embed_coded(
    tokens: Region,
    codes: &Codes,
    (first_token, rows): (u32, u32),
    out: Rows,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(out.dtype, "embed_coded"),
        geometry: geometry([out.rows.into(), 1, 1], 256, 0)?,
        args: vec![
            Arg::In(tokens),
            codes.arg(),
            Arg::U32(first_token),
            Arg::U32(rows),
            Arg::U32(out.columns),
            Arg::Out(out.at),
        ],
    })
}

/// Rows as signed bytes, each with a scale; `peaks` are what all ranks found, one for each row.
pub(in crate::cuda) fn quantize_int8(
    x: Rows,
    peaks: Option<Region>,
    out: Bytes,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(x.dtype, "quantize_int8"),
        geometry: geometry([x.rows.into(), 1, 1], 256, 0)?,
        args: vec![
            Arg::In(x.at),
            Arg::U32(x.columns),
            Arg::U32(out.stride),
            peaks.map_or(Arg::Null, Arg::In),
            Arg::Out(out.codes),
            Arg::Out(out.scales),
        ],
    })
}

/// `out = bytes * integers^T`.
pub(in crate::cuda) fn integers(
    (x, bytes): (Rows, Bytes),
    weight: &Integers,
    shape: Shape,
    out: Rows,
) -> Result<Call, DeviceError> {
    let name = match (x.rows <= FEW_ROWS, weight.bits) {
        (true, 8) => "product_few_int8",
        (true, _) => "product_few_int4",
        (false, 8) => "product_many_int8",
        (false, _) => "product_many_int4",
    };
    let product = empty_product(x, shape, None, out);
    let (geometry, own) = (of_integers(x.rows, 1, shape)?, integers_arg(bytes, weight));
    Ok(Call { name, geometry, args: vec![product, own] })
}

/// The same for each group's rows; the addresses of each weight's words and scales are in an array,
/// and `first` is the first of them.
pub(in crate::cuda) fn integer_groups(
    (x, bytes): (Rows, Bytes),
    (groups, first): (Groups, &Integers),
    shape: Shape,
    out: Rows,
) -> Result<Call, DeviceError> {
    let name = match (groups.most_rows <= FEW_ROWS, first.bits) {
        (true, 8) => "product_few_int8_groups",
        (true, _) => "product_few_int4_groups",
        (false, 8) => "product_many_int8_groups",
        (false, _) => "product_many_int4_groups",
    };
    let product = empty_product(x, shape, Some(groups.ends), out);
    Ok(Call {
        name,
        geometry: of_integers(groups.most_rows, groups.count, shape)?,
        args: vec![product, integers_arg(bytes, first), Arg::In(groups.weights)],
    })
}

fn of_integers(rows: u32, groups: u32, shape: Shape) -> Result<Geometry, DeviceError> {
    let (tile, threads) = if rows <= FEW_ROWS { (8, 256) } else { (64, 128) };
    let (outputs, rows) = (u64::from(shape.outputs), u64::from(rows));
    geometry([outputs.div_ceil(tile), rows.div_ceil(tile), groups.into()], threads, 0)
}

fn integers_arg(bytes: Bytes, weight: &Integers) -> Arg {
    Arg::Struct(vec![
        Arg::In(bytes.codes),
        Arg::In(bytes.scales),
        Arg::In(weight.words),
        Arg::In(weight.scales),
        Arg::U32(bytes.stride),
        Arg::U32(weight.blocks),
    ])
}

/// How a row's runs of inputs share scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cuda) struct Runs {
    integers: bool,
    size: u32,
    /// How many inputs of the first run other ranks have.
    skip: u32,
    /// The number of the first run among those of all ranks.
    first: u32,
    fixed: f32,
    /// Runs that a row of this rank has.
    count: u32,
    /// Peaks of a row over all ranks.
    stride: u32,
}

impl Runs {
    /// Those of a rounding over `columns` inputs; `None` if nothing is rounded.
    pub(in crate::cuda) fn of(rounding: InputRounding, columns: u32) -> Option<Self> {
        let whole = |integers, fixed| Self {
            integers,
            size: columns,
            skip: 0,
            first: 0,
            fixed,
            count: 1,
            stride: 1,
        };
        match rounding {
            InputRounding::Exact => None,
            InputRounding::Fp8Static(scale) => Some(whole(false, scale)),
            InputRounding::Fp8Token => Some(whole(false, 0.0)),
            InputRounding::Int8Token => Some(whole(true, 0.0)),
            InputRounding::Fp8Groups { size, first, .. } => {
                // Sizes of groups and rows were checked when the weights were prepared.
                let (size, first) = (size as u32, first as u32);
                let skip = first % size;
                Some(Self {
                    integers: false,
                    size,
                    skip,
                    first: first / size,
                    fixed: 0.0,
                    count: (skip + columns).div_ceil(size),
                    stride: rounding.peaks() as u32,
                })
            }
        }
    }

    /// `out = x` as the rounding leaves it. `peaks` are `[rows][peaks of all ranks]`.
    pub(in crate::cuda) fn round(
        &self,
        x: Rows,
        peaks: Option<Region>,
        out: Rows,
    ) -> Result<Call, DeviceError> {
        Ok(Call {
            name: by_type!(x.dtype, "round"),
            geometry: geometry([x.rows.into(), self.count.into(), 1], 128, 0)?,
            args: vec![
                Arg::In(x.at),
                Arg::U32(x.columns),
                Arg::U32(self.integers.into()),
                Arg::U32(self.size),
                Arg::U32(self.skip),
                Arg::F32(self.fixed),
                peaks.map_or(Arg::Null, Arg::In),
                Arg::U32(self.stride),
                Arg::U32(self.first),
                Arg::Out(out.at),
            ],
        })
    }

    /// `peaks[row][first..]` = the largest magnitude of each run.
    pub(in crate::cuda) fn peaks(&self, x: Rows, peaks: Region) -> Result<Call, DeviceError> {
        Ok(Call {
            name: by_type!(x.dtype, "peaks"),
            geometry: geometry([x.rows.into(), self.count.into(), 1], 128, 0)?,
            args: vec![
                Arg::In(x.at),
                Arg::U32(x.columns),
                Arg::U32(self.size),
                Arg::U32(self.skip),
                Arg::U32(self.stride),
                Arg::U32(self.first),
                Arg::Out(peaks),
            ],
        })
    }
}

/// A product's structure for kernels that have their own weights.
fn empty_product(x: Rows, shape: Shape, ends: Option<Region>, out: Rows) -> Arg {
    let Shape { inputs, outputs, ending } = shape;
    let weight = product::Dense { at: x.at, dtype: x.dtype, outputs, inputs };
    product::arg(x, (None, None, ends), (weight, ending, out))
}
