//! Weights as the kernels want them: panels of 64 outputs, each `[K][64]`, so that a product
//! streams through memory once and 16 outputs fill a vector.
//!
//! Outputs are padded to whole panels with zeros. Halves are widened to `f32` when they are used,
//! exactly; brain floats lie in pairs of inputs ([`crate::cpu::pairs`]). A row (one output's
//! weights) can still be read, which is how a tied embedding is gathered from the head.

use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::{
    backend::PreparedLinear,
    cpu::{
        aligned::Aligned,
        coded::{Coded, Stacked},
        integers::{Bits, GROUP, WORDS, pack_panel},
        pairs::{self, PAIRS, PairOrder},
        panels::Panels,
        rounding,
        simd::{Isa, pool::Pool},
    },
    dtype::Dtype,
    error::DeviceError,
    quant::{InputRounding, QuantizedPart, QuantizedSource, Zeros, codes::CodeKind},
    tensor::{DenseMatrix, DensePart, FileMatrix, LinearSource, Quantize, WeightSource},
};

/// Outputs per panel.
pub(crate) const PANEL: usize = 64;

/// A linear layer on the CPU.
#[derive(Debug)]
pub struct CpuLinear {
    pub(crate) elements: Elements,
    pub(crate) bias: Option<Vec<f32>>,
    /// What inputs are rounded to; integers do it themselves, with peaks if there are any.
    pub(crate) rounding: InputRounding,
    in_features: usize,
    out_features: usize,
}

/// Elements by how they lie in memory.
#[derive(Debug)]
pub(crate) enum Elements {
    /// Brain floats in pairs, blocks of `[16][64]` words one after the other.
    Bf16(Arc<Panels>),
    /// IEEE halves, as bits.
    F16(Aligned<u16>),
    /// Singles.
    F32(Aligned<f32>),
    /// Codes of a quantized checkpoint with scales.
    Coded(Coded),
    /// Integers of eight or four bits with scales.
    Integers(Integers),
}

/// Integers with their scales, as [`crate::cpu::integers`] states.
#[derive(Debug)]
pub(crate) struct Integers {
    pub(crate) bits: Bits,
    /// Panels of blocks of `[words][64]`.
    words: Aligned<u32>,
    /// With eight bits one for each output, panel by panel.
    by_output: Vec<f32>,
    /// With four bits, brain floats, panel by panel and in those `[group][64]`.
    by_group: Aligned<u16>,
}

impl Integers {
    fn pack(
        bits: Bits,
        (panels, in_features): (usize, usize),
        rows: &Rows<'_>,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let blocks = in_features.div_ceil(GROUP);
        let mut words = zeros(panels, blocks * bits.words())?;
        let chunk = blocks * bits.words() * PANEL;
        let (mut by_output, mut by_group) = (Vec::new(), Aligned::zeroed(0)?);
        match bits {
            Bits::Eight => {
                by_output = vec![0.0; panels * PANEL];
                pool.chunks_of_two((&mut words, chunk), (&mut by_output, PANEL), &|at, out, to| {
                    pack_panel(bits, rows.of_panel(at), out, |_, lane, scale| to[lane] = scale);
                });
            }
            Bits::Four => {
                by_group = zeros(panels, blocks)?;
                let scales = (&mut *by_group, blocks * PANEL);
                pool.chunks_of_two((&mut words, chunk), scales, &|at, out, to| {
                    pack_panel(bits, rows.of_panel(at), out, |block, lane, scale| {
                        to[block * PANEL + lane] = bf16::from_f32(scale).to_bits();
                    });
                });
            }
        }
        Ok(Self { bits, words, by_output, by_group })
    }

    /// Bytes that were made elsewhere, each part with one scale for each output.
    fn of_bytes(source: &QuantizedSource<'_>, pool: &mut Pool) -> Result<Self, DeviceError> {
        let stacked = Stacked::new(&source.parts)?;
        let panels = stacked.outputs().div_ceil(PANEL);
        let blocks = source.parts[0].codes.inputs().div_ceil(GROUP);
        let mut words = zeros(panels, blocks * WORDS)?;
        pool.chunks(&mut words, blocks * WORDS * PANEL, &|panel, out| stacked.fill(panel, out));
        let mut by_output = vec![0.0; panels * PANEL];
        for (scale, (part, row)) in by_output.iter_mut().zip(stacked.each_output()) {
            *scale = part.scales[row];
        }
        Ok(Self { bits: Bits::Eight, words, by_output, by_group: Aligned::zeroed(0)? })
    }

    /// The words of a panel of `blocks` blocks.
    pub(crate) fn panel(&self, panel: usize, blocks: usize) -> &[u32] {
        let size = blocks * self.bits.words() * PANEL;
        &self.words[panel * size..][..size]
    }

    /// Scales of a panel's outputs, with eight bits.
    pub(crate) fn output_scales(&self, panel: usize) -> &[f32] {
        &self.by_output[panel * PANEL..][..PANEL]
    }

    /// Scales of one of a panel's `blocks` groups, with four bits.
    pub(crate) fn group_scales(&self, panel: usize, group: usize, blocks: usize) -> &[u16] {
        &self.by_group[(panel * blocks + group) * PANEL..][..PANEL]
    }

    /// The integer of output `n` for input `k`, of `blocks` blocks.
    pub(crate) fn get(&self, n: usize, k: usize, blocks: usize) -> u32 {
        let (word, shift) = self.bits.place(k % GROUP);
        let panel = self.panel(n / PANEL, blocks);
        let at = (k / GROUP * self.bits.words() + word) * PANEL + n % PANEL;
        panel[at] >> shift & self.bits.mask()
    }

    /// The scale of output `n` in group `group`, of `blocks` blocks.
    pub(crate) fn scale(&self, n: usize, group: usize, blocks: usize) -> f32 {
        match self.bits {
            Bits::Eight => self.by_output[n],
            Bits::Four => {
                let scales = self.group_scales(n / PANEL, group, blocks);
                bf16::from_bits(scales[n % PANEL]).to_f32()
            }
        }
    }

    /// Weight of output `n` for input `k` of `inputs`.
    fn value(&self, n: usize, k: usize, inputs: usize) -> f32 {
        let blocks = inputs.div_ceil(GROUP);
        let steps = self.get(n, k, blocks).cast_signed() - self.bits.zero();
        steps as f32 * self.scale(n, k / GROUP, blocks)
    }

    fn bytes(&self) -> usize {
        self.words.len() * 4 + self.by_output.len() * 4 + self.by_group.len() * 2
    }
}

fn bits_of(quantize: Option<Quantize>) -> Option<Bits> {
    quantize.map(|quantize| match quantize {
        Quantize::Int8 => Bits::Eight,
        Quantize::Int4 => Bits::Four,
    })
}

/// Whether a product of bytes, that knows one scale for each output, is what a source asks for.
fn are_bytes(source: &QuantizedSource<'_>) -> bool {
    let plain = |part: &QuantizedPart<'_>| {
        part.codes.kind() == CodeKind::Int8
            && part.zeros == Zeros::Same(Bits::Eight.zero() as f32)
            && part.groups.iter().all(|group| *group == 0)
    };
    source.rounding == InputRounding::Int8Token && source.parts.iter().all(plain)
}

/// Zeros for `panels` panels with `each` elements for each of their outputs.
pub(crate) fn zeros<T: Pod>(panels: usize, each: usize) -> Result<Aligned<T>, DeviceError> {
    let size = (panels * PANEL)
        .checked_mul(each)
        .ok_or_else(|| DeviceError::OutOfMemory("weights of impossible size".to_owned()))?;
    Aligned::zeroed(size)
}

impl CpuLinear {
    /// Packs the source, panels shared out over the pool. Brain floats of a file that `isa` packs
    /// fast enough for each product stay where they are.
    pub(crate) fn pack(
        source: &LinearSource<'_>,
        isa: Option<Isa>,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let order = isa.map_or(PairOrder::Natural, Isa::pair_order);
        let parts = match &source.weights {
            WeightSource::Dense(parts) => parts,
            WeightSource::Quantized(quantized) => return Self::of_codes(source, quantized, pool),
        };
        check_parts(parts, source.in_features)?;
        let (in_features, out_features) = (source.in_features, source.out_features());
        let panels = out_features.div_ceil(PANEL);
        let rows = Rows::new(parts);
        let chunk = PANEL * in_features;
        let elements = match source.storage {
            _ if let Some(bits) = bits_of(source.quantize) => {
                let size = (panels, in_features);
                Elements::Integers(Integers::pack(bits, size, &rows, pool)?)
            }
            Dtype::Bf16 => {
                let fast = isa.filter(|isa| isa.packs_fast());
                Elements::Bf16(Arc::new(match (fast, of_files(parts)) {
                    (Some(_), Some(parts)) if parts.iter().all(FileMatrix::is_whole) => {
                        Panels::in_place(order, in_features, parts, pool)
                    }
                    (Some(isa), Some(parts)) => {
                        Panels::of_columns((isa, order), in_features, parts, pool)?
                    }
                    _ => {
                        let words = pairs::words(in_features);
                        let mut data = zeros(panels, words)?;
                        pool.chunks(&mut data, PANEL * words, &|panel, out| {
                            rows.pack_pairs(panel, order, out);
                        });
                        Panels::packed(order, in_features, data)
                    }
                }))
            }
            Dtype::F16 => {
                let mut data = zeros(panels, in_features)?;
                pool.chunks(&mut data, chunk, &|panel, out| {
                    rows.pack_panel(panel, out, |value| f16::from_f32(value).to_bits());
                });
                Elements::F16(data)
            }
            Dtype::F32 => {
                let mut data = zeros(panels, in_features)?;
                pool.chunks(&mut data, chunk, &|panel, out| {
                    rows.pack_panel(panel, out, |value| value);
                });
                Elements::F32(data)
            }
        };
        let biases = parts.iter().map(|part| (part.weight.rows(), part.bias.as_ref()));
        let (bias, rounding) = (gather_bias(biases), InputRounding::Exact);
        Ok(Self { elements, bias, rounding, in_features, out_features })
    }

    /// Takes codes over as they are. Only float32 asks for products that round no input.
    fn of_codes(
        source: &LinearSource<'_>,
        quantized: &QuantizedSource<'_>,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let rounding = match source.storage {
            Dtype::F32 => InputRounding::Exact,
            Dtype::Bf16 | Dtype::F16 => quantized.rounding,
        };
        let elements = match rounding != InputRounding::Exact && are_bytes(quantized) {
            true => Elements::Integers(Integers::of_bytes(quantized, pool)?),
            false => Elements::Coded(Coded::pack(&quantized.parts, pool)?),
        };
        let (in_features, out_features) = (source.in_features, source.out_features());
        if quantized.parts.iter().any(|part| part.codes.inputs() != in_features) {
            return Err(DeviceError::Contract(format!(
                "codes for other than {in_features} inputs"
            )));
        }
        let biases = quantized.parts.iter();
        let bias = gather_bias(biases.map(|part| (part.codes.outputs(), part.bias.as_ref())));
        Ok(Self { elements, bias, rounding, in_features, out_features })
    }

    /// Rows of inputs as the checkpoint rounds them; `peaks` as in [`rounding::round_row`].
    pub(crate) fn rounded(&self, x: &[f32], peaks: &[f32]) -> Vec<f32> {
        let (width, each) = (self.in_features, self.rounding.peaks());
        let mut out = vec![0.0; x.len()];
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for (row, (x, out)) in rows.enumerate() {
            let peaks = peaks.get(row * each..(row + 1) * each).unwrap_or_default();
            rounding::round_row(self.rounding, x, peaks, out);
        }
        out
    }

    /// Weight of output `n` for input `k`.
    pub(crate) fn get(&self, n: usize, k: usize) -> f32 {
        let at = (n / PANEL * self.in_features + k) * PANEL + n % PANEL;
        match &self.elements {
            Elements::Bf16(panels) => panels.get(n, k),
            Elements::F16(data) => f16::from_bits(data[at]).to_f32(),
            Elements::F32(data) => data[at],
            Elements::Coded(coded) => coded.value(n, k),
            Elements::Integers(integers) => integers.value(n, k, self.in_features),
        }
    }

    /// All weights of output `n`, which must exist.
    pub(crate) fn row(&self, n: usize, out: &mut [f32]) {
        let start = n / PANEL * self.in_features * PANEL + n % PANEL;
        let f16 = |bits: &u16| f16::from_bits(*bits).to_f32();
        match &self.elements {
            Elements::Bf16(panels) => panels.row(n, out),
            Elements::F16(data) => spread(&data[start..], out, f16),
            Elements::F32(data) => spread(&data[start..], out, |value| *value),
            Elements::Coded(coded) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = coded.value(n, k);
                }
            }
            Elements::Integers(integers) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = integers.value(n, k, self.in_features);
                }
            }
        }
    }
}

fn spread<T>(from: &[T], out: &mut [f32], widen: impl Fn(&T) -> f32) {
    for (out, from) in out.iter_mut().zip(from.iter().step_by(PANEL)) {
        *out = widen(from);
    }
}

impl PreparedLinear for CpuLinear {
    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }

    fn bytes(&self) -> u64 {
        let elements = match &self.elements {
            Elements::Bf16(panels) => panels.bytes(self.out_features),
            Elements::F16(data) => data.len() * 2,
            Elements::Coded(coded) => coded.bytes(),
            Elements::Integers(integers) => integers.bytes(),
            Elements::F32(data) => data.len() * 4,
        };
        (elements + self.bias.as_ref().map_or(0, |bias| bias.len() * 4)) as u64
    }
}

/// The stacked rows of a source, found by output index.
struct Rows<'a> {
    rows: Vec<(&'a DensePart<'a>, usize)>,
}

impl<'a> Rows<'a> {
    fn new(parts: &'a [DensePart<'a>]) -> Self {
        let rows =
            parts.iter().flat_map(|part| (0..part.weight.rows()).map(move |row| (part, row)));
        Self { rows: rows.collect() }
    }

    /// The bytes and type of each row of a panel.
    fn of_panel(&self, panel: usize) -> impl Iterator<Item = (&[u8], Dtype)> {
        let end = ((panel + 1) * PANEL).min(self.rows.len());
        let rows = self.rows[panel * PANEL..end].iter();
        rows.map(|(part, row)| (part.weight.row(*row), part.weight.dtype()))
    }

    /// Fills panel `panel` with pairs, rows beyond the last staying zero. Block by block, so that a
    /// piece of each row is read while the block is in the first-level cache.
    fn pack_pairs(&self, panel: usize, order: PairOrder, out: &mut [u32]) {
        let end = ((panel + 1) * PANEL).min(self.rows.len());
        for (block, out) in out.chunks_exact_mut(PAIRS * PANEL).enumerate() {
            for (lane, (part, row)) in self.rows[panel * PANEL..end].iter().enumerate() {
                let row = (part.weight.row(*row), part.weight.dtype());
                pairs::pack_block(order, row, block, lane, out);
            }
        }
    }

    /// Fills panel `panel`, rows beyond the last staying zero.
    fn pack_panel<T>(&self, panel: usize, out: &mut [T], narrow: impl Fn(f32) -> T) {
        let end = ((panel + 1) * PANEL).min(self.rows.len());
        for (lane, (part, row)) in self.rows[panel * PANEL..end].iter().enumerate() {
            let (bytes, dtype) = (part.weight.row(*row), part.weight.dtype());
            for (k, column) in out.chunks_exact_mut(PANEL).enumerate() {
                column[lane] = narrow(dtype.read(bytes, k));
            }
        }
    }
}

/// The rows of all parts where files have them, if those are brain floats.
fn of_files(parts: &[DensePart<'_>]) -> Option<Vec<FileMatrix>> {
    let found = parts.iter().map(|part| match part.weight.dtype() {
        Dtype::Bf16 => part.weight.to_file(),
        Dtype::F16 | Dtype::F32 => None,
    });
    found.collect()
}

pub(crate) fn check_parts(parts: &[DensePart<'_>], in_features: usize) -> Result<(), DeviceError> {
    let contract = |why: String| Err(DeviceError::Contract(why));
    if parts.is_empty() || in_features == 0 {
        return contract("a linear layer without weights".to_owned());
    }
    for part in parts {
        let (rows, columns) = (part.weight.rows(), part.weight.columns());
        if columns != in_features {
            return contract(format!("weights of {columns} columns among {in_features} inputs"));
        }
        if let Some(bias) = &part.bias
            && (bias.rows(), bias.columns()) != (1, rows)
        {
            return contract(format!("a bias of {} elements for {rows} outputs", bias.columns()));
        }
    }
    Ok(())
}

/// The biases of stacked parts, each with its outputs; missing ones among others are zeros.
pub(crate) fn gather_bias<'a>(
    parts: impl Iterator<Item = (usize, Option<&'a DenseMatrix<'a>>)>,
) -> Option<Vec<f32>> {
    let (mut all, mut any) = (Vec::new(), false);
    for (outputs, bias) in parts {
        let read =
            |at| bias.map_or(0.0, |bias: &DenseMatrix<'_>| bias.dtype().read(bias.row(0), at));
        all.extend((0..outputs).map(read));
        any |= bias.is_some();
    }
    any.then_some(all)
}
