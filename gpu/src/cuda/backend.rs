//! `impl Backend` for a CUDA device: sizes are checked here and in the files that operations of
//! several launches have, then launches are enqueued. Only downloads and exports wait.

use std::ops::Range;

use troupe_runtime::id::BlockId;

use super::{
    attend::CudaRope,
    buffer::CudaBuffer,
    device::{CudaDevice, Underway},
    driver::Driver,
    kv::{CudaKv, block_bytes},
    ladder,
    launch::{
        number,
        rows::{self, Gate},
    },
    memory::extent,
    step::CudaStep,
    weights::{CudaLinear, CudaVector},
};
use crate::{
    backend::{
        Activations, Backend, Epilogue, ExpertWeights, KvSpan, KvStep, LatentCall, LayerNorm,
        LinearCall, Norm, RopeSpec, StepRows,
    },
    dtype::Dtype,
    error::DeviceError,
    executor::StepBatch,
    memory::Limits,
    shape::{AttentionSpec, HeadShape, KvKind, KvSpec},
    tensor::{DenseMatrix, LinearSource},
};

type Done = Result<(), DeviceError>;

impl<D: Driver> Backend for CudaDevice<D> {
    type Buffer = CudaBuffer<D>;
    type Linear = CudaLinear<D>;
    type Vector = CudaVector<D>;
    type Rope = CudaRope<D>;
    type Kv = CudaKv<D>;
    type StepMeta = CudaStep<D>;

    fn kernel_path(&self) -> &'static str {
        self.path
    }

    fn activation_dtype(&self) -> Dtype {
        self.options.activations
    }

    fn pad_rows(&self, rows: usize) -> usize {
        ladder::rows(rows)
    }

    fn synchronize(&mut self) -> Done {
        Ok(self.driver.synchronize()?)
    }

    fn alloc(
        &mut self,
        capacity: usize,
        columns: usize,
        dtype: Dtype,
    ) -> Result<CudaBuffer<D>, DeviceError> {
        CudaBuffer::zeroed(&self.driver, (capacity, columns), dtype)
    }

    fn prepare_linear(&mut self, source: &LinearSource<'_>) -> Result<CudaLinear<D>, DeviceError> {
        CudaLinear::prepare(&self.driver, source, &mut self.pool)
    }

    fn prepare_vector(&mut self, source: &DenseMatrix<'_>) -> Result<CudaVector<D>, DeviceError> {
        if source.rows() != 1 || source.columns() == 0 {
            return broken(format!("a vector of {} x {}", source.rows(), source.columns()));
        }
        let (row, dtype) = (source.row(0), source.dtype());
        let values: Vec<f32> = (0..source.columns()).map(|at| dtype.read(row, at)).collect();
        CudaVector::new(&self.driver, &values)
    }

    fn prepare_rope(&mut self, spec: &RopeSpec<'_>) -> Result<CudaRope<D>, DeviceError> {
        CudaRope::new(self, spec)
    }

    fn allocate_kv(&mut self, spec: &KvSpec, blocks: u32) -> Result<CudaKv<D>, DeviceError> {
        if spec.dtype.is_scaled() && matches!(spec.kind, KvKind::Latent { .. }) {
            let why = format!("latent rows in {}", spec.dtype);
            return Err(DeviceError::Unsupported(why));
        }
        CudaKv::new(&self.driver, spec, blocks)
    }

    fn kv_block_bytes(&self, spec: &KvSpec) -> u64 {
        block_bytes(spec)
    }

    fn step_meta(&mut self, limits: &Limits) -> Result<CudaStep<D>, DeviceError> {
        CudaStep::new(limits)
    }

    fn upload(
        &mut self,
        buffer: &mut CudaBuffer<D>,
        rows: usize,
        columns: Range<usize>,
        bytes: &[u8],
    ) -> Done {
        buffer.expect_range(&columns)?;
        let row_bytes = columns.len() * buffer.dtype().size();
        if extent(&[rows, row_bytes]).is_ok_and(|expected| expected != bytes.len() as u64) {
            let columns = columns.len();
            return broken(format!("{} bytes for {rows} rows of {columns} elements", bytes.len()));
        }
        buffer.set_rows(rows)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if columns.len() == buffer.columns() {
            return Ok(self.driver.upload(bytes, buffer.live()?.address)?);
        }
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            self.driver.upload(bytes, buffer.run(row, &columns)?.address)?;
        }
        Ok(())
    }

    fn download(
        &mut self,
        buffer: &CudaBuffer<D>,
        columns: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Done {
        buffer.expect_range(&columns)?;
        let (live, size) = (buffer.live()?, buffer.dtype().size());
        bytes.clear();
        bytes.resize(live.bytes as usize, 0);
        self.driver.download(live.address, bytes)?;
        if columns.len() < buffer.columns() {
            let rows = bytes.chunks_exact(buffer.columns() * size);
            let own = columns.start * size..columns.end * size;
            *bytes = rows.flat_map(|row| &row[own.clone()]).copied().collect();
        }
        Ok(())
    }

    fn download_f32(&mut self, buffer: &CudaBuffer<D>, values: &mut Vec<f32>) -> Done {
        buffer.expect_dtype(Dtype::F32)?;
        values.clear();
        values.resize(buffer.rows() * buffer.columns(), 0.0);
        self.driver.download(buffer.live()?.address, bytemuck::cast_slice_mut(values))?;
        Ok(())
    }

    fn copy(&mut self, x: &CudaBuffer<D>, out: &mut CudaBuffer<D>) -> Done {
        out.expect_columns(x.columns())?;
        out.expect_dtype(x.dtype())?;
        let (x, out) = self.pair(x, out)?;
        match x.at.bytes {
            0 => Ok(()),
            bytes => Ok(self.driver.copy(x.at.address, out.at.address, bytes)?),
        }
    }

    fn zero(&mut self, out: &mut CudaBuffer<D>, rows: usize) -> Done {
        out.set_rows(rows)?;
        let out = self.view(out)?;
        match out.at.bytes {
            0 => Ok(()),
            bytes => Ok(self.driver.fill(out.at.address, 0, bytes)?),
        }
    }

    fn prepare_step(
        &mut self,
        batch: &StepBatch,
        kv: &[CudaKv<D>],
        meta: &mut CudaStep<D>,
    ) -> Done {
        self.begin_step(Underway::default());
        meta.prepare(&self.driver, batch, kv)?;
        let sequence_of = Some(meta.sequence_of()?);
        self.begin_step(Underway { rows: meta.rows(), shape: meta.shape(), sequence_of });
        Ok(())
    }

    fn begin_layers(&mut self, _meta: &CudaStep<D>) -> Result<bool, DeviceError> {
        self.begin_captured()
    }

    fn end_layers(&mut self) -> Result<bool, DeviceError> {
        self.end_captured()
    }

    fn embed(
        &mut self,
        meta: &CudaStep<D>,
        table: &CudaLinear<D>,
        first_token: u32,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        self.embed_tokens(meta, table, first_token, out)
    }

    fn embed_rows(&mut self, rows: &[u32], table: &CudaLinear<D>, out: &mut CudaBuffer<D>) -> Done {
        self.embed_numbers(rows, table, out)
    }

    fn linear(
        &mut self,
        x: &CudaBuffer<D>,
        weight: &CudaLinear<D>,
        call: LinearCall<'_, Self>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        self.product(x, weight, call, out)
    }

    fn input_peaks(
        &mut self,
        x: &CudaBuffer<D>,
        weight: &CudaLinear<D>,
        peaks: &mut Vec<f32>,
    ) -> Done {
        self.find_peaks(x, weight, peaks)
    }

    fn rms_norm(
        &mut self,
        x: &CudaBuffer<D>,
        norm: Norm<'_, Self>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        out.expect_columns(x.columns())?;
        out.expect_dtype(x.dtype())?;
        expect_norm(&norm, x.columns())?;
        let (x, out) = self.pair(x, out)?;
        self.run(rows::rms_norm(x, (norm.weight.at(), norm.epsilon), out))
    }

    fn layer_norm(
        &mut self,
        x: &CudaBuffer<D>,
        norm: LayerNorm<'_, Self>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        out.expect_columns(x.columns())?;
        out.expect_dtype(x.dtype())?;
        for vector in [norm.weight, norm.bias] {
            expect_norm(&Norm { weight: vector, epsilon: norm.epsilon }, x.columns())?;
        }
        let (x, out) = self.pair(x, out)?;
        let vectors = [norm.weight.at(), norm.bias.at()];
        self.run(rows::layer_norm(x, (vectors, norm.epsilon), out))
    }

    fn add_rms_norm(
        &mut self,
        x: &CudaBuffer<D>,
        residual: &mut CudaBuffer<D>,
        norm: Norm<'_, Self>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        residual.expect_like(x)?;
        out.expect_columns(x.columns())?;
        out.expect_dtype(x.dtype())?;
        expect_norm(&norm, x.columns())?;
        let (x, out) = self.pair(x, out)?;
        let residual = self.view_of(residual, x.rows as usize)?;
        self.run(rows::add_rms_norm((x, residual), (norm.weight.at(), norm.epsilon), out))
    }

    fn head_rms_norm(
        &mut self,
        x: &mut CudaBuffer<D>,
        columns: Range<usize>,
        norm: Norm<'_, Self>,
    ) -> Done {
        x.expect_range(&columns)?;
        let head = norm.weight.len();
        if !columns.len().is_multiple_of(head) {
            return broken(format!("heads of {head} in {columns:?}"));
        }
        let heads = (number(columns.start)?, number(columns.len() / head)?, number(head)?);
        let x = self.view(x)?;
        self.run(rows::head_rms_norm(x, heads, (norm.weight.at(), norm.epsilon)))
    }

    fn rope_write_kv(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &mut CudaBuffer<D>,
        heads: HeadShape,
        rope: Option<&CudaRope<D>>,
        kv: &mut CudaKv<D>,
    ) -> Done {
        self.rotate_and_store(step, qkv, heads, rope, kv)
    }

    fn attention(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &CudaBuffer<D>,
        spec: &AttentionSpec,
        kv: &CudaKv<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        self.attend(step, qkv, spec, kv, out)
    }

    fn write_latent(
        &mut self,
        step: KvStep<'_, Self>,
        query: &mut CudaBuffer<D>,
        latent: &mut CudaBuffer<D>,
        call: LatentCall<'_, Self>,
        kv: &mut CudaKv<D>,
    ) -> Done {
        self.store_latent(step, query, latent, call, kv)
    }

    fn latent_attention(
        &mut self,
        step: KvStep<'_, Self>,
        query: &CudaBuffer<D>,
        call: LatentCall<'_, Self>,
        kv: &CudaKv<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        self.attend_latent(step, query, call, kv, out)
    }

    fn moe(
        &mut self,
        x: &CudaBuffer<D>,
        weights: &ExpertWeights<'_, Self>,
        epilogue: Epilogue,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        self.run_experts(x, weights, epilogue, out)
    }

    fn silu_mul(&mut self, gate_up: &CudaBuffer<D>, out: &mut CudaBuffer<D>) -> Done {
        self.gate(Gate::Silu, gate_up, out)
    }

    fn gelu_mul(&mut self, gate_up: &CudaBuffer<D>, out: &mut CudaBuffer<D>) -> Done {
        self.gate(Gate::Gelu, gate_up, out)
    }

    fn gelu(&mut self, x: &mut CudaBuffer<D>) -> Done {
        let (x, units) = (self.view(x)?, self.units());
        self.run(rows::gelu(x, units))
    }

    fn scale(&mut self, x: &mut CudaBuffer<D>, factor: f32) -> Done {
        let (x, units) = (self.view(x)?, self.units());
        self.run(rows::scale(x, factor, units))
    }

    fn soft_cap(&mut self, x: &mut CudaBuffer<D>, cap: f32) -> Done {
        let (x, units) = (self.view(x)?, self.units());
        self.run(rows::soft_cap(x, cap, units))
    }

    fn gather_logit_rows(
        &mut self,
        meta: &CudaStep<D>,
        x: &CudaBuffer<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        out.expect_columns(x.columns())?;
        out.expect_dtype(x.dtype())?;
        if x.rows() != meta.rows() {
            return broken(format!("{} rows of a step of {}", x.rows(), meta.rows()));
        }
        // Exactly these rows: what fills a step up asks for no logits.
        let rows = StepRows::logit_rows(meta);
        out.set_rows(rows)?;
        let (x, out) = (self.view(x)?, self.view_of(out, rows)?);
        self.run(rows::gather(x, meta.logit_rows_at()?, out))
    }

    fn add(&mut self, x: &CudaBuffer<D>, out: &mut CudaBuffer<D>) -> Done {
        out.expect_like(x)?;
        let units = self.units();
        let (x, out) = self.pair(x, out)?;
        self.run(rows::add(x, out, units))
    }

    fn copy_kv(&mut self, kv: &mut CudaKv<D>, from: BlockId, to: BlockId) -> Done {
        self.copy_block(kv, from, to)
    }

    fn export_kv(&mut self, kv: &CudaKv<D>, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Done {
        self.export(kv, span, bytes)
    }

    fn import_kv(&mut self, kv: &mut CudaKv<D>, span: &KvSpan<'_>, bytes: &[u8]) -> Done {
        self.import(kv, span, bytes)
    }

    fn save_block(&mut self, kv: &CudaKv<D>, block: BlockId, bytes: &mut Vec<u8>) -> Done {
        self.save(kv, block, bytes)
    }

    fn restore_block(&mut self, kv: &mut CudaKv<D>, block: BlockId, bytes: &[u8]) -> Done {
        self.restore(kv, block, bytes)
    }
}

impl<D: Driver> CudaDevice<D> {
    fn gate(&mut self, gate: Gate, gate_up: &CudaBuffer<D>, out: &mut CudaBuffer<D>) -> Done {
        gate_up.expect_columns(2 * out.columns())?;
        out.expect_dtype(gate_up.dtype())?;
        let (gate_up, out) = self.pair(gate_up, out)?;
        self.run(rows::gate(gate, gate_up, out))
    }
}

fn broken<T>(why: String) -> Result<T, DeviceError> {
    Err(DeviceError::Contract(why))
}

fn expect_norm<D: Driver>(norm: &Norm<'_, CudaDevice<D>>, columns: usize) -> Done {
    match norm.weight.len() {
        len if len == columns => Ok(()),
        len => broken(format!("{len} norm weights for rows of {columns}")),
    }
}
