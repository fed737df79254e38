//! Weights as the kernels want them: panels of 64 outputs, each `[K][64]`, so that a product
//! streams through memory once and 16 outputs fill a vector.
//!
//! Outputs are padded to whole panels with zeros. One element is widened to `f32` when it is used,
//! exactly, so the storage type changes memory and speed but no rule of arithmetic. A row (one
//! output's weights) can still be read, which is how a tied embedding is gathered from the head.

use half::{bf16, f16};

use crate::{
    backend::PreparedLinear,
    cpu::{aligned::Aligned, simd::pool::Pool},
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
    /// Brain floats, as bits.
    Bf16(Aligned<u16>),
    /// IEEE halves, as bits.
    F16(Aligned<u16>),
    /// Singles.
    F32(Aligned<f32>),
}

impl CpuLinear {
    /// Packs the source, panels shared out over the pool.
    pub(crate) fn pack(source: &LinearSource<'_>, pool: &mut Pool) -> Result<Self, DeviceError> {
        let WeightSource::Dense(parts) = &source.weights else {
            return Err(DeviceError::Unsupported(
                "packed weights on the CPU: float32, float16 and bfloat16 are".to_owned(),
            ));
        };
        check_parts(parts, source.in_features)?;
        let (in_features, out_features) = (source.in_features, source.out_features());
        let size = out_features
            .next_multiple_of(PANEL)
            .checked_mul(in_features)
            .ok_or_else(|| DeviceError::OutOfMemory("weights of impossible size".to_owned()))?;
        let mut elements = Elements::zeroed(source.storage, size)?;
        let rows = Rows::new(parts);
        let chunk = PANEL * in_features;
        match &mut elements {
            Elements::Bf16(data) => pool.chunks(data, chunk, &|panel, out| {
                rows.pack_panel(panel, out, |value| bf16::from_f32(value).to_bits());
            }),
            Elements::F16(data) => pool.chunks(data, chunk, &|panel, out| {
                rows.pack_panel(panel, out, |value| f16::from_f32(value).to_bits());
            }),
            Elements::F32(data) => {
                pool.chunks(data, chunk, &|panel, out| rows.pack_panel(panel, out, |value| value));
            }
        }
        Ok(Self { elements, bias: gather_bias(parts), in_features, out_features })
    }

    /// Weight of output `n` for input `k`.
    pub(crate) fn get(&self, n: usize, k: usize) -> f32 {
        let at = (n / PANEL * self.in_features + k) * PANEL + n % PANEL;
        match &self.elements {
            Elements::Bf16(data) => bf16::from_bits(data[at]).to_f32(),
            Elements::F16(data) => f16::from_bits(data[at]).to_f32(),
            Elements::F32(data) => data[at],
        }
    }
}

impl CpuLinear {
    /// All weights of output `n`, which must exist.
    pub(crate) fn row(&self, n: usize, out: &mut [f32]) {
        let start = n / PANEL * self.in_features * PANEL + n % PANEL;
        let bf16 = |bits: &u16| bf16::from_bits(*bits).to_f32();
        let f16 = |bits: &u16| f16::from_bits(*bits).to_f32();
        match &self.elements {
            Elements::Bf16(data) => spread(&data[start..], out, bf16),
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
            Elements::Bf16(data) | Elements::F16(data) => data.len() * 2,
            Elements::F32(data) => data.len() * 4,
        };
        (elements + self.bias.as_ref().map_or(0, |bias| bias.len() * 4)) as u64
    }
}

impl Elements {
    fn zeroed(dtype: Dtype, len: usize) -> Result<Self, DeviceError> {
        Ok(match dtype {
            Dtype::Bf16 => Self::Bf16(Aligned::zeroed(len)?),
            Dtype::F16 => Self::F16(Aligned::zeroed(len)?),
            Dtype::F32 => Self::F32(Aligned::zeroed(len)?),
        })
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
