//! Weights on the device: numbers row by row, codes of a checkpoint with their scales, or integers
//! that weights were rounded to when they were loaded.
//!
//! What codes and integers a source becomes is decided by the same code as on the CPU
//! ([`crate::cpu::packed`]); here they only change their places.

use std::sync::Arc;

use super::{
    driver::{Driver, Region},
    launch::{
        number,
        product::Dense,
        quantized::{Codes, Integers},
        rows::Table,
    },
    memory::{Allocation, extent},
};
use crate::{
    backend::PreparedLinear,
    cpu::{
        coded::Coded,
        integers::Bits,
        packed::{self, CpuLinear, PANEL},
        simd::pool::Pool,
    },
    dtype::Dtype,
    error::DeviceError,
    quant::{InputRounding, codes::CodeKind},
    tensor::{DensePart, LinearSource, WeightSource},
};

/// A linear layer on the device.
#[derive(Debug)]
pub struct CudaLinear<D: Driver> {
    pub(super) elements: Elements<D>,
    bias: Option<Allocation<D>>,
    /// What inputs are rounded to.
    pub(super) rounding: InputRounding,
    pub(super) inputs: u32,
    pub(super) outputs: u32,
}

/// Elements by how they lie.
#[derive(Debug)]
pub(super) enum Elements<D: Driver> {
    /// `[outputs][inputs]` numbers.
    Dense(Allocation<D>, Dtype),
    /// Codes of a checkpoint.
    Coded(CodedWeights<D>),
    /// Integers of ours.
    Integers(IntegerWeights<D>),
}

/// Codes with what they are multiplied by.
#[derive(Debug)]
pub(super) struct CodedWeights<D: Driver> {
    words: Allocation<D>,
    scales: Allocation<D>,
    offsets: Option<Allocation<D>>,
    group_of: Allocation<D>,
    zero: f32,
    kind: u32,
    stride: u32,
    groups: u32,
}

/// Integers with their scales.
#[derive(Debug)]
pub(super) struct IntegerWeights<D: Driver> {
    words: Allocation<D>,
    scales: Allocation<D>,
    /// All zeros: every input has the scale of its output.
    group_of: Option<Allocation<D>>,
    blocks: u32,
    bits: Bits,
}

/// A short vector on the device.
#[derive(Debug)]
pub struct CudaVector<D: Driver> {
    values: Allocation<D>,
    len: usize,
}

impl<D: Driver> CudaLinear<D> {
    /// Takes a source over. `pool` shares the work of packing what is quantized.
    pub(super) fn prepare(
        driver: &Arc<D>,
        source: &LinearSource<'_>,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let (inputs, outputs) = (number(source.in_features)?, number(source.out_features())?);
        if let (WeightSource::Dense(parts), None) = (&source.weights, source.quantize) {
            packed::check_parts(parts, source.in_features)?;
            let elements = dense(driver, parts, source.storage)?;
            let biases = parts.iter().map(|part| (part.weight.rows(), part.bias.as_ref()));
            let bias = numbers(driver, packed::gather_bias(biases))?;
            let elements = Elements::Dense(elements, source.storage);
            return Ok(Self { elements, bias, rounding: InputRounding::Exact, inputs, outputs });
        }
        let packed = CpuLinear::pack(source, None, pool)?;
        let elements = match &packed.elements {
            packed::Elements::Coded(codes) => {
                Elements::Coded(CodedWeights::new(driver, codes, source.out_features())?)
            }
            packed::Elements::Integers(integers) => Elements::Integers(IntegerWeights::new(
                driver,
                integers,
                (source.in_features, source.out_features()),
            )?),
            _ => return Err(DeviceError::Contract("quantized weights that are numbers".into())),
        };
        let bias = numbers(driver, packed.bias.clone())?;
        Ok(Self { elements, bias, rounding: packed.rounding, inputs, outputs })
    }

    /// The bias.
    pub(super) fn bias(&self) -> Option<Region> {
        self.bias.as_ref().map(Allocation::all)
    }

    /// The weights, if they are numbers.
    pub(super) fn dense(&self) -> Option<Dense> {
        match &self.elements {
            Elements::Dense(weights, dtype) => Some(Dense {
                at: weights.all(),
                dtype: *dtype,
                outputs: self.outputs,
                inputs: self.inputs,
            }),
            Elements::Coded(_) | Elements::Integers(_) => None,
        }
    }

    /// The weights, if they are codes of a checkpoint.
    pub(super) fn codes(&self) -> Option<Codes> {
        match &self.elements {
            Elements::Coded(codes) => Some(codes.view()),
            Elements::Dense(..) | Elements::Integers(_) => None,
        }
    }

    /// The weights, if they are integers of ours.
    pub(super) fn integers(&self) -> Option<Integers> {
        match &self.elements {
            Elements::Integers(integers) => Some(integers.view()),
            Elements::Dense(..) | Elements::Coded(_) => None,
        }
    }

    /// The weights as a table of rows, if they are numbers.
    pub(super) fn table(&self) -> Option<Table> {
        let dense = self.dense()?;
        Some(Table { at: dense.at, dtype: dense.dtype, rows: dense.outputs, columns: dense.inputs })
    }
}

impl<D: Driver> PreparedLinear for CudaLinear<D> {
    fn in_features(&self) -> usize {
        self.inputs as usize
    }

    fn out_features(&self) -> usize {
        self.outputs as usize
    }

    fn bytes(&self) -> u64 {
        let elements = match &self.elements {
            Elements::Dense(weights, _) => weights.bytes(),
            Elements::Coded(codes) => {
                let offsets = codes.offsets.as_ref().map_or(0, Allocation::bytes);
                codes.words.bytes() + codes.scales.bytes() + codes.group_of.bytes() + offsets
            }
            Elements::Integers(integers) => {
                let groups = integers.group_of.as_ref().map_or(0, Allocation::bytes);
                integers.words.bytes() + integers.scales.bytes() + groups
            }
        };
        elements + self.bias.as_ref().map_or(0, Allocation::bytes)
    }
}

impl<D: Driver> CodedWeights<D> {
    fn new(driver: &Arc<D>, codes: &Coded, outputs: usize) -> Result<Self, DeviceError> {
        let (depth, groups) = (codes.depth(), codes.groups());
        let (mut scales, mut offsets) = (Vec::<f32>::new(), Vec::<f32>::new());
        for output in 0..outputs {
            let (own, zeros) = codes.scales(output / PANEL);
            scales.extend(own.iter().skip(output % PANEL).step_by(PANEL));
            offsets.extend(zeros.iter().skip(output % PANEL).step_by(PANEL));
        }
        let words = by_output(outputs, depth, |panel| codes.panel(panel), |word| word);
        Ok(Self {
            words: Allocation::holding(driver, bytemuck::cast_slice(&words))?,
            scales: Allocation::holding(driver, bytemuck::cast_slice(&scales))?,
            offsets: numbers(driver, codes.has_offsets().then_some(offsets))?,
            group_of: Allocation::holding(driver, bytemuck::cast_slice(&codes.group_of))?,
            zero: codes.zero,
            kind: match codes.kind {
                CodeKind::Int4 => 4,
                CodeKind::Int8 => 8,
                CodeKind::Fp8 => 9,
            },
            stride: number(depth)?,
            groups: number(groups)?,
        })
    }

    /// As kernels see them.
    pub(super) fn view(&self) -> Codes {
        Codes {
            words: self.words.all(),
            scales: self.scales.all(),
            offsets: self.offsets.as_ref().map(Allocation::all),
            group_of: self.group_of.all(),
            zero: self.zero,
            kind: self.kind,
            stride: self.stride,
            groups: self.groups,
        }
    }
}

impl<D: Driver> IntegerWeights<D> {
    fn new(
        driver: &Arc<D>,
        integers: &packed::Integers,
        (inputs, outputs): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let (bits, blocks) = (integers.bits, inputs.div_ceil(64));
        // Unsigned bytes around 128 become signed ones around 0; zero stays 8 with four bits.
        let flip = if bits == Bits::Eight { 0x8080_8080 } else { 0 };
        let depth = blocks * bits.words();
        let words =
            by_output(outputs, depth, |panel| integers.panel(panel, blocks), |word| word ^ flip);
        let groups = if bits == Bits::Eight { 1 } else { blocks };
        let scales: Vec<f32> = (0..outputs)
            .flat_map(|n| (0..groups).map(move |group| integers.scale(n, group, blocks)))
            .collect();
        let group_of = match bits {
            Bits::Eight => Some(Allocation::zeroed(driver, extent(&[inputs, 4])?)?),
            Bits::Four => None,
        };
        Ok(Self {
            words: Allocation::holding(driver, bytemuck::cast_slice(&words))?,
            scales: Allocation::holding(driver, bytemuck::cast_slice(&scales))?,
            group_of,
            blocks: number(blocks)?,
            bits,
        })
    }

    /// As kernels see them.
    pub(super) fn view(&self) -> Integers {
        Integers {
            words: self.words.all(),
            scales: self.scales.all(),
            blocks: self.blocks,
            bits: if self.bits == Bits::Eight { 8 } else { 4 },
        }
    }

    /// The same as codes, for rows of a table; of eight bits only.
    pub(super) fn codes(&self) -> Option<Codes> {
        Some(Codes {
            words: self.words.all(),
            scales: self.scales.all(),
            offsets: None,
            group_of: self.group_of.as_ref()?.all(),
            zero: 0.0,
            kind: SIGNED_BYTES,
            stride: self.blocks * 16,
            groups: 1,
        })
    }
}

impl<D: Driver> CudaVector<D> {
    /// Puts numbers onto the device.
    pub(super) fn new(driver: &Arc<D>, values: &[f32]) -> Result<Self, DeviceError> {
        let held = Allocation::holding(driver, bytemuck::cast_slice(values))?;
        Ok(Self { values: held, len: values.len() })
    }

    /// Where they are.
    pub(super) fn at(&self) -> Region {
        self.values.all()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// The stacked rows in the type that they are kept in, piece by piece.
fn dense<D: Driver>(
    driver: &Arc<D>,
    parts: &[DensePart<'_>],
    storage: Dtype,
) -> Result<Allocation<D>, DeviceError> {
    let rows: usize = parts.iter().map(|part| part.weight.rows()).sum();
    let columns = parts.first().map_or(0, |part| part.weight.columns());
    let held = Allocation::new(driver, extent(&[rows, columns, storage.size()])?)?;
    let (mut piece, mut first) = (Vec::with_capacity(PIECE_BYTES), 0);
    for weight in parts.iter().map(|part| &part.weight) {
        for row in 0..weight.rows() {
            let (bytes, dtype) = (weight.row(row), weight.dtype());
            match dtype == storage {
                true => piece.extend_from_slice(bytes),
                false => {
                    (0..columns).for_each(|at| storage.write(&mut piece, dtype.read(bytes, at)))
                }
            }
            if piece.len() >= PIECE_BYTES {
                first = send(driver, &held, first, &mut piece)?;
            }
        }
    }
    send(driver, &held, first, &mut piece)?;
    Ok(held)
}

/// Copies a piece behind what is there already; gives where the next one goes.
fn send<D: Driver>(
    driver: &Arc<D>,
    held: &Allocation<D>,
    first: u64,
    piece: &mut Vec<u8>,
) -> Result<u64, DeviceError> {
    let region = held.part(first, piece.len() as u64)?;
    if !piece.is_empty() {
        driver.upload(piece, region.address)?;
    }
    piece.clear();
    Ok(first + region.bytes)
}

/// Numbers on the device, if there are any.
fn numbers<D: Driver>(
    driver: &Arc<D>,
    values: Option<Vec<f32>>,
) -> Result<Option<Allocation<D>>, DeviceError> {
    let put = |values: Vec<f32>| Allocation::holding(driver, bytemuck::cast_slice(&values));
    values.map(put).transpose()
}

/// Panels of `[depth][64]` words as `[output][depth]`.
fn by_output<'a>(
    outputs: usize,
    depth: usize,
    panel: impl Fn(usize) -> &'a [u32],
    change: impl Fn(u32) -> u32,
) -> Vec<u32> {
    let mut words = Vec::with_capacity(outputs * depth);
    for output in 0..outputs {
        let own = panel(output / PANEL)[output % PANEL..].iter().step_by(PANEL).take(depth);
        words.extend(own.map(|word| change(*word)));
    }
    words
}

const PIECE_BYTES: usize = 4 << 20;
/// Codes that are signed bytes, as `coded.cu` is told it.
const SIGNED_BYTES: u32 = 10;
