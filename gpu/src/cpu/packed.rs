//! Weights as the kernels want them: panels of 64 outputs, each `[K][64]`, so that a product
//! streams through memory once and 16 outputs fill a vector.
//!
//! Outputs are padded to whole panels with zeros. Halves are widened to `f32` when they are used,
//! exactly; brain floats lie in pairs of inputs ([`crate::cpu::pairs`]). A row (one output's weights)
//! can still be read, which is how a tied embedding is gathered from the head.

use half::f16;

use crate::{
    backend::PreparedLinear,
    cpu::{
        aligned::Aligned,
        pairs::{self, BLOCK, PAIRS, PairOrder},
        simd::pool::Pool,
    },
    dtype::Dtype,
    error::DeviceError,
    tensor::{DensePart, LinearSource, WeightSource},
};

/// Outputs per panel.
pub(crate) const PANEL: usize = 64;

/// A linear layer on the CPU.
#[derive(Debug)]
pub struct CpuLinear {
    pub(crate) elements: Elements,
    pub(crate) bias: Option<Vec<f32>>,
    in_features: usize,
    out_features: usize,
}

/// Elements by how they lie in memory.
#[derive(Debug)]
pub(crate) enum Elements {
    /// Brain floats in pairs, blocks of `[16][64]` words one after the other.
    Bf16(Aligned<u32>, PairOrder),
    /// IEEE halves, as bits.
    F16(Aligned<u16>),
    /// Singles.
    F32(Aligned<f32>),
}

impl CpuLinear {
    /// Packs the source, panels shared out over the pool; pairs of brain floats as `order` says.
    pub(crate) fn pack(
        source: &LinearSource<'_>,
        order: PairOrder,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let WeightSource::Dense(parts) = &source.weights else {
            return Err(DeviceError::Unsupported(
                "packed weights on the CPU: float32, float16 and bfloat16 are".to_owned(),
            ));
        };
        check_parts(parts, source.in_features)?;
        let (in_features, out_features) = (source.in_features, source.out_features());
        let panels = out_features.div_ceil(PANEL);
        let sized = |per_output: usize| {
            (panels * PANEL)
                .checked_mul(per_output)
                .ok_or_else(|| DeviceError::OutOfMemory("weights of impossible size".to_owned()))
        };
        let rows = Rows::new(parts);
        let chunk = PANEL * in_features;
        let elements = match source.storage {
            Dtype::Bf16 => {
                let words = pairs::words(in_features);
                let mut data = Aligned::zeroed(sized(words)?)?;
                pool.chunks(&mut data, PANEL * words, &|panel, out| {
                    rows.pack_pairs(panel, order, out);
                });
                Elements::Bf16(data, order)
            }
            Dtype::F16 => {
                let mut data = Aligned::zeroed(sized(in_features)?)?;
                pool.chunks(&mut data, chunk, &|panel, out| {
                    rows.pack_panel(panel, out, |value| f16::from_f32(value).to_bits());
                });
                Elements::F16(data)
            }
            Dtype::F32 => {
                let mut data = Aligned::zeroed(sized(in_features)?)?;
                pool.chunks(&mut data, chunk, &|panel, out| {
                    rows.pack_panel(panel, out, |value| value);
                });
                Elements::F32(data)
            }
        };
        Ok(Self { elements, bias: gather_bias(parts), in_features, out_features })
    }

    /// The words of panel `panel`, if these are brain floats; else none.
    pub(crate) fn panel_of_pairs(&self, panel: usize) -> &[u32] {
        let size = pairs::words(self.in_features) * PANEL;
        match &self.elements {
            Elements::Bf16(data, _) => &data[panel * size..][..size],
            Elements::F16(_) | Elements::F32(_) => &[],
        }
    }

    /// Weight of output `n` for input `k`.
    pub(crate) fn get(&self, n: usize, k: usize) -> f32 {
        let at = (n / PANEL * self.in_features + k) * PANEL + n % PANEL;
        match &self.elements {
            Elements::Bf16(data, order) => {
                let (word, shift) = order.place(k % BLOCK);
                let words = n / PANEL * pairs::words(self.in_features);
                let at = (words + k / BLOCK * PAIRS + word) * PANEL + n % PANEL;
                pairs::widen((data[at] >> shift) as u16)
            }
            Elements::F16(data) => f16::from_bits(data[at]).to_f32(),
            Elements::F32(data) => data[at],
        }
    }
}

impl CpuLinear {
    /// All weights of output `n`, which must exist.
    pub(crate) fn row(&self, n: usize, out: &mut [f32]) {
        let start = n / PANEL * self.in_features * PANEL + n % PANEL;
        let f16 = |bits: &u16| f16::from_bits(*bits).to_f32();
        match &self.elements {
            Elements::Bf16(data, order) => {
                let start = n / PANEL * pairs::words(self.in_features) * PANEL + n % PANEL;
                let blocks = data[start..].chunks(PAIRS * PANEL);
                for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
                    for (input, out) in out.iter_mut().enumerate() {
                        let (word, shift) = order.place(input);
                        *out = pairs::widen((block[word * PANEL] >> shift) as u16);
                    }
                }
            }
            Elements::F16(data) => spread(&data[start..], out, f16),
            Elements::F32(data) => spread(&data[start..], out, |value| *value),
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
            Elements::Bf16(data, _) => data.len() * 4,
            Elements::F16(data) => data.len() * 2,
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

fn check_parts(parts: &[DensePart<'_>], in_features: usize) -> Result<(), DeviceError> {
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

fn gather_bias(parts: &[DensePart<'_>]) -> Option<Vec<f32>> {
    if parts.iter().all(|part| part.bias.is_none()) {
        return None;
    }
    let mut all = Vec::new();
    for part in parts {
        let zeros = std::iter::repeat_n(0.0, part.weight.rows());
        match &part.bias {
            Some(bias) => {
                all.extend((0..bias.columns()).map(|at| bias.dtype().read(bias.row(0), at)));
            }
            None => all.extend(zeros),
        }
    }
    Some(all)
}
