//! Linear layers on the device: which product serves which weights, and rounding before it.

use std::sync::Arc;

use super::{
    buffer::CudaBuffer,
    device::CudaDevice,
    driver::{Driver, Region},
    launch::{
        Rows, number,
        product::{self, Dense, Ending, FEW_ROWS, Groups},
        quantized::{self, Bytes, Runs, Shape},
        rows,
    },
    memory::extent,
    step::CudaStep,
    weights::{CudaLinear, Elements},
};
use crate::{
    backend::{Activations, Epilogue, LinearCall},
    dtype::Dtype,
    error::DeviceError,
};

type Done = Result<(), DeviceError>;

impl<D: Driver> CudaDevice<D> {
    /// [`crate::backend::Backend::linear`].
    pub(super) fn product(
        &mut self,
        x: &CudaBuffer<D>,
        weight: &CudaLinear<D>,
        call: LinearCall<'_, Self>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        if !call.lora.is_empty() {
            return Err(DeviceError::Unsupported(crate::load::NO_ADAPTERS.to_owned()));
        }
        x.expect_columns(weight.inputs as usize)?;
        out.expect_columns(weight.outputs as usize)?;
        if out.dtype() != Dtype::F32 {
            out.expect_dtype(x.dtype())?;
        }
        let add = call.epilogue == Epilogue::AddTo;
        if add && out.rows() != x.rows() {
            let why = format!("{} rows added to {}", x.rows(), out.rows());
            return Err(DeviceError::Contract(why));
        }
        let peaks = call.peaks.unwrap_or_default();
        if !peaks.is_empty() && peaks.len() != x.rows() * weight.rounding.peaks() {
            let why = format!("{} peaks of {} rows", peaks.len(), x.rows());
            return Err(DeviceError::Contract(why));
        }
        let (x, out) = self.pair(x, out)?;
        let peaks = self.upload_peaks(peaks, (x.rows as usize, weight.rounding.peaks()))?;
        self.multiply(x, weight, (peaks, add), out)
    }

    /// The same of rows wherever they are.
    pub(super) fn multiply(
        &mut self,
        x: Rows,
        weight: &CudaLinear<D>,
        (peaks, add): (Option<Region>, bool),
        out: Rows,
    ) -> Done {
        let ending = Ending { bias: weight.bias(), add };
        let shape = Shape { inputs: weight.inputs, outputs: weight.outputs, ending };
        match &weight.elements {
            Elements::Dense(..) => match weight.dense() {
                Some(dense) => self.dense(x, dense, ending, out),
                None => Ok(()),
            },
            Elements::Integers(integers) => {
                let view = integers.view();
                let bytes = self.rounded_to_bytes(x, view.blocks, peaks)?;
                self.run(quantized::integers((x, bytes), &view, shape, out))
            }
            Elements::Coded(codes) => {
                let mut x = x;
                if let Some(runs) = Runs::of(weight.rounding, x.columns) {
                    let at = self.scratch.rounded.reserve(x.at.bytes)?;
                    let rounded = Rows { at, ..x };
                    self.run(runs.round(x, peaks, rounded))?;
                    x = rounded;
                }
                let view = codes.view();
                if x.rows <= MOST_CODED_ROWS && quantized::multiplies_codes(x.dtype, x.columns) {
                    return self.run(quantized::coded(x, &view, shape, out));
                }
                let (outputs, inputs) = (weight.outputs as usize, weight.inputs as usize);
                let bytes = extent(&[outputs, inputs, x.dtype.size()])?;
                let at = self.scratch.decoded.reserve(bytes)?;
                let numbers = Self::rows_at(at, (weight.outputs, weight.inputs), x.dtype);
                self.run(quantized::decode(&view, weight.inputs, numbers))?;
                let dense =
                    Dense { at, dtype: x.dtype, outputs: weight.outputs, inputs: weight.inputs };
                self.dense(x, dense, ending, out)
            }
        }
    }

    /// A product of numbers: by our kernel for few rows, by the library for many.
    fn dense(&mut self, x: Rows, weight: Dense, ending: Ending, out: Rows) -> Done {
        let few = x.rows <= FEW_ROWS && product::suits_mma(x.dtype, weight.dtype, weight.inputs);
        let plain = ending.bias.is_none() && x.rows > 0;
        if plain && !few && self.by_library(x, weight, ending.add, out)? {
            return Ok(());
        }
        self.run(product::dense(x, weight, ending, out))
    }

    /// What all ranks found, for kernels.
    fn upload_peaks(
        &mut self,
        peaks: &[f32],
        (rows, each): (usize, usize),
    ) -> Result<Option<Region>, DeviceError> {
        if peaks.is_empty() {
            return Ok(None);
        }
        // Rows that only fill a step up have none: their results are never looked at.
        let mut all = peaks.to_vec();
        all.resize(rows * each, 0.0);
        // Behind the scales of the rows, which the same product makes.
        let first = extent(&[rows, 4])?.next_multiple_of(256);
        let held = self.scratch.scales.reserve(first + extent(&[all.len(), 4])?)?;
        let at = Region { address: held.address.after(first), bytes: held.bytes - first };
        self.driver.upload(bytemuck::cast_slice(&all), at.address)?;
        Ok(Some(at))
    }

    /// [`crate::backend::Backend::input_peaks`].
    pub(super) fn find_peaks(
        &mut self,
        x: &CudaBuffer<D>,
        weight: &CudaLinear<D>,
        peaks: &mut Vec<f32>,
    ) -> Done {
        x.expect_columns(weight.inputs as usize)?;
        peaks.clear();
        let each = weight.rounding.peaks();
        let runs = Runs::of(weight.rounding, weight.inputs);
        let (Some(runs), true) = (runs, each > 0 && x.rows() > 0) else { return Ok(()) };
        let bytes = extent(&[x.rows(), each, 4])?;
        let at = self.scratch.scales.reserve(bytes)?;
        self.driver.fill(at.address, 0, bytes)?;
        let x = self.view_of(x, x.rows())?;
        self.run(runs.peaks(x, at))?;
        peaks.resize(x.rows as usize * each, 0.0);
        self.driver.download(at.address, bytemuck::cast_slice_mut(peaks))?;
        Ok(())
    }

    /// [`crate::backend::Backend::embed`].
    pub(super) fn embed_tokens(
        &mut self,
        meta: &CudaStep<D>,
        table: &CudaLinear<D>,
        first_token: u32,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        out.expect_columns(table.inputs as usize)?;
        let vocabulary = meta.host().limits().vocab_size;
        if let Some(token) = meta.host().tokens.iter().find(|&&token| token as usize >= vocabulary)
        {
            return Err(DeviceError::Contract(format!("token {token} of {vocabulary}")));
        }
        let rows = meta.host().tokens.len();
        out.expect_room(rows)?;
        out.set_rows(rows)?;
        let out = self.view(out)?;
        self.embed(meta.tokens()?, (table, first_token), out)
    }

    /// [`crate::backend::Backend::embed_rows`].
    pub(super) fn embed_numbers(
        &mut self,
        rows: &[u32],
        table: &CudaLinear<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        out.expect_columns(table.inputs as usize)?;
        if let Some(row) = rows.iter().find(|row| **row >= table.outputs) {
            return Err(DeviceError::Contract(format!("row {row} of {}", table.outputs)));
        }
        out.expect_room(rows.len())?;
        out.set_rows(rows.len())?;
        let out = self.view(out)?;
        // Rows that only fill a step up become zeros.
        let mut all = rows.to_vec();
        all.resize(out.rows as usize, u32::MAX);
        let at = self.scratch.choices.reserve(extent(&[all.len(), 4])?)?;
        self.driver.upload(bytemuck::cast_slice(&all), at.address)?;
        self.embed(at, (table, 0), out)
    }

    /// Rows of a table by numbers that are on the device.
    fn embed(
        &mut self,
        tokens: Region,
        (table, first_token): (&CudaLinear<D>, u32),
        out: Rows,
    ) -> Done {
        let codes = match &table.elements {
            Elements::Dense(..) => None,
            Elements::Coded(codes) => Some(codes.view()),
            Elements::Integers(integers) => integers.codes(),
        };
        let call = match (table.table(), codes) {
            (Some(table), _) => rows::embed(tokens, table, first_token, out),
            (None, Some(codes)) => {
                quantized::embed_coded(tokens, &codes, (first_token, table.outputs), out)
            }
            (None, None) => Err(DeviceError::Unsupported(
                "an embedding of four bits: eight are the fewest".into(),
            )),
        };
        self.run(call)
    }

    /// Products of weights that are alike, each for its own rows: those up to its place in `ends`,
    /// of which none has more than `most_rows`.
    pub(super) fn grouped(
        &mut self,
        x: Rows,
        (weights, ends, most_rows): (&[CudaLinear<D>], Region, u32),
        out: Rows,
    ) -> Done {
        let Some(first) = weights.first() else {
            return Err(DeviceError::Contract("a group of no weights".into()));
        };
        let count = number(weights.len())?;
        let groups = |weights| Groups { weights, ends, count, most_rows };
        let ending = Ending::default();
        let shape = Shape { inputs: first.inputs, outputs: first.outputs, ending };
        match &first.elements {
            Elements::Dense(..) => {
                let all: Option<Vec<Dense>> = weights.iter().map(CudaLinear::dense).collect();
                let all = alike(all, |one| (one.outputs, one.inputs, one.dtype))?;
                let addresses = || all.iter().map(|one| one.at.address.0).collect();
                let table = self.table((all[0].at.address.0, weights.len()), addresses)?;
                self.run(product::grouped(x, groups(table), all[0], out))
            }
            Elements::Coded(_) => {
                if !quantized::multiplies_codes(x.dtype, x.columns) {
                    return Err(DeviceError::Unsupported(format!(
                        "experts of quantized weights in {} with {} inputs on CUDA: bfloat16 and \
                         float16 work, with multiples of 8",
                        x.dtype, x.columns
                    )));
                }
                let mut x = x;
                if let Some(runs) = Runs::of(first.rounding, x.columns) {
                    let at = self.scratch.rounded.reserve(x.at.bytes)?;
                    let rounded = Rows { at, ..x };
                    self.run(runs.round(x, None, rounded))?;
                    x = rounded;
                }
                let all: Option<Vec<_>> = weights.iter().map(CudaLinear::codes).collect();
                let all = alike(all, |one| (one.kind, one.stride))?;
                let words = || all.iter().flat_map(|one| one.arg().words()).collect();
                let table = self.table((all[0].words.address.0, weights.len()), words)?;
                self.run(quantized::coded_groups(x, groups(table), shape, out))
            }
            Elements::Integers(_) => {
                let all: Option<Vec<_>> = weights.iter().map(CudaLinear::integers).collect();
                let all = alike(all, |one| (one.bits, one.blocks))?;
                let pairs = all.iter().flat_map(|one| [one.words.address.0, one.scales.address.0]);
                let key = (all[0].words.address.0, weights.len());
                let table = self.table(key, || pairs.collect())?;
                let bytes = self.rounded_to_bytes(x, all[0].blocks, None)?;
                let own = (groups(table), &all[0]);
                self.run(quantized::integer_groups((x, bytes), own, shape, out))
            }
        }
    }

    /// Rows rounded to bytes, for weights of so many blocks of inputs.
    fn rounded_to_bytes(
        &mut self,
        x: Rows,
        blocks: u32,
        peaks: Option<Region>,
    ) -> Result<Bytes, DeviceError> {
        let stride = number(extent(&[blocks as usize, 64])? as usize)?;
        let codes = extent(&[x.rows as usize, stride as usize])?;
        let scales = self.scratch.scales.reserve(extent(&[x.rows as usize, 4])?)?;
        let codes = self.scratch.rounded.reserve(codes)?;
        let bytes = Bytes { codes, scales, stride };
        self.run(quantized::quantize_int8(x, peaks, bytes))?;
        Ok(bytes)
    }

    /// The driver, to be kept by what lives as long.
    pub(super) fn shared_driver(&self) -> Arc<D> {
        Arc::clone(&self.driver)
    }
}

/// Weights of a group, if they are of one kind and alike.
fn alike<T, K: PartialEq>(
    all: Option<Vec<T>>,
    key: impl Fn(&T) -> K,
) -> Result<Vec<T>, DeviceError> {
    match all {
        Some(all) if all.iter().all(|one| key(one) == key(&all[0])) => Ok(all),
        _ => Err(DeviceError::Contract("grouped products of different weights".into())),
    }
}

/// Codes are multiplied where they lie for so many rows; for more they become numbers first.
const MOST_CODED_ROWS: u32 = 64;
