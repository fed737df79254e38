//! `impl Backend` for the CPU: sizes are checked here, then the work is done at once.

use std::{ops::Range, sync::Arc};

use troupe_runtime::id::BlockId;

use crate::{
    backend::{
        Activations, Backend, Epilogue, ExpertWeights, KvSpan, KvStep, LatentCall, LayerNorm,
        LinearCall, Norm, PreparedLinear, RopeSpec, StepRows,
    },
    cpu::{
        CpuOptions, KernelPath,
        aligned::Aligned,
        buffer::CpuBuffer,
        experts, latent, lora, math,
        ops::{self, CpuRope, CpuVector},
        packed::{CpuLinear, Elements},
        panels::Panels,
        rounding,
        simd::{Isa, pool::Pool},
    },
    dtype::Dtype,
    error::DeviceError,
    executor::StepBatch,
    kv::KvPool,
    memory::Limits,
    shape::{AttentionSpec, HeadShape, KvKind, KvSpec, LatentShape},
    step::{GroupTables, HostStep},
    tensor::{DenseMatrix, LinearSource},
};

/// One CPU device: some threads and the memory that they work on.
#[derive(Debug)]
pub struct CpuDevice {
    path: KernelPath,
    /// `None` computes by the reference.
    pub(crate) isa: Option<Isa>,
    pub(crate) pool: Pool,
    /// Weights of which some may not be packed yet.
    unsettled: Vec<Arc<Panels>>,
    /// A product's input as kernels read it.
    pub(crate) laid_out: Aligned<u32>,
    /// Working memory of the operations that are several.
    pub(crate) experts: experts::Scratch,
    pub(crate) latent: latent::Scratch,
    pub(crate) lora: lora::Scratch,
}

impl CpuDevice {
    /// A device with threads of its own.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if this machine lacks the forced path, [`DeviceError::Failed`]
    /// if threads cannot be started.
    pub fn new(options: CpuOptions) -> Result<Self, DeviceError> {
        let path = options.path.unwrap_or_else(KernelPath::best);
        if !path.available() {
            return Err(DeviceError::Unsupported(format!("{} on this machine", path.name())));
        }
        Ok(Self {
            path,
            isa: Isa::of(path),
            pool: Pool::new(options.threads)?,
            unsettled: Vec::new(),
            laid_out: Aligned::zeroed(0)?,
            experts: experts::Scratch::new()?,
            latent: latent::Scratch::new()?,
            lora: lora::Scratch::new()?,
        })
    }

    /// Threads that share each operation.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Backend for CpuDevice {
    type Buffer = CpuBuffer;
    type Linear = CpuLinear;
    type Vector = CpuVector;
    type Rope = CpuRope;
    type Kv = KvPool;
    type StepMeta = HostStep;

    fn kernel_path(&self) -> &'static str {
        self.path.name()
    }

    fn activation_dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn pad_rows(&self, rows: usize) -> usize {
        rows
    }

    fn synchronize(&mut self) -> Done {
        Ok(())
    }

    fn alloc(
        &mut self,
        capacity: usize,
        columns: usize,
        dtype: Dtype,
    ) -> Result<CpuBuffer, DeviceError> {
        if dtype != Dtype::F32 {
            return Err(DeviceError::Unsupported(format!("{dtype} activations on the CPU")));
        }
        CpuBuffer::zeroed(capacity, columns)
    }

    fn prepare_linear(&mut self, source: &LinearSource<'_>) -> Result<CpuLinear, DeviceError> {
        let linear = CpuLinear::pack(source, self.isa, &mut self.pool)?;
        if let Elements::Bf16(panels) = &linear.elements {
            self.unsettled.push(Arc::clone(panels));
        }
        Ok(linear)
    }

    fn settle(&mut self) -> bool {
        while let (Some(panels), Some(isa)) = (self.unsettled.last(), self.isa) {
            // Without memory for it, a weight stays where it is and costs time.
            if panels.settle(isa, &mut self.pool).unwrap_or(false) {
                return true;
            }
            self.unsettled.pop();
        }
        false
    }

    fn prepare_vector(&mut self, source: &DenseMatrix<'_>) -> Result<CpuVector, DeviceError> {
        if source.rows() != 1 || source.columns() == 0 {
            return broken(format!("a vector of {} x {}", source.rows(), source.columns()));
        }
        let (row, dtype) = (source.row(0), source.dtype());
        Ok(CpuVector((0..source.columns()).map(|at| dtype.read(row, at)).collect()))
    }

    fn prepare_rope(&mut self, spec: &RopeSpec<'_>) -> Result<CpuRope, DeviceError> {
        Ok(CpuRope::new(spec))
    }

    fn allocate_kv(&mut self, spec: &KvSpec, blocks: u32) -> Result<KvPool, DeviceError> {
        KvPool::new(spec, blocks)
    }

    fn kv_block_bytes(&self, spec: &KvSpec) -> u64 {
        KvPool::block_bytes(spec)
    }

    fn step_meta(&mut self, limits: &Limits) -> Result<HostStep, DeviceError> {
        HostStep::new(limits)
    }

    fn upload(
        &mut self,
        buffer: &mut CpuBuffer,
        rows: usize,
        columns: Range<usize>,
        bytes: &[u8],
    ) -> Done {
        buffer.upload(rows, columns, bytes)
    }

    fn download(&mut self, buffer: &CpuBuffer, columns: Range<usize>, bytes: &mut Vec<u8>) -> Done {
        buffer.download(columns, bytes)
    }

    fn download_f32(&mut self, buffer: &CpuBuffer, values: &mut Vec<f32>) -> Done {
        values.clear();
        values.extend_from_slice(buffer.values());
        Ok(())
    }

    fn copy(&mut self, x: &CpuBuffer, out: &mut CpuBuffer) -> Done {
        out.expect_columns(x.columns())?;
        out.set_rows(x.rows())?.copy_from_slice(x.values());
        Ok(())
    }

    fn zero(&mut self, out: &mut CpuBuffer, rows: usize) -> Done {
        out.set_rows(rows)?.fill(0.0);
        Ok(())
    }

    fn prepare_step(&mut self, batch: &StepBatch, kv: &[KvPool], meta: &mut HostStep) -> Done {
        meta.prepare(batch, kv)
    }

    fn embed(
        &mut self,
        meta: &HostStep,
        table: &CpuLinear,
        first_token: u32,
        out: &mut CpuBuffer,
    ) -> Done {
        out.expect_columns(table.in_features())?;
        if let Some(token) = meta.tokens.iter().find(|&&t| t as usize >= meta.limits().vocab_size) {
            return broken(format!("token {token} of {}", meta.limits().vocab_size));
        }
        let columns = out.columns();
        let out = out.set_rows(meta.rows())?;
        ops::each_row(&mut self.pool, (out, columns), &|row, out| match meta.tokens[row]
            .checked_sub(first_token)
            .map(|token| token as usize)
        {
            Some(token) if token < table.out_features() => table.row(token, out),
            _ => out.fill(0.0),
        });
        Ok(())
    }

    fn embed_rows(&mut self, rows: &[u32], table: &CpuLinear, out: &mut CpuBuffer) -> Done {
        out.expect_columns(table.in_features())?;
        let most = table.out_features();
        if let Some(row) = rows.iter().find(|&&row| row as usize >= most) {
            return broken(format!("row {row} of {most}"));
        }
        let columns = out.columns();
        let out = out.set_rows(rows.len())?;
        ops::each_row(&mut self.pool, (out, columns), &|row, out| {
            table.row(rows[row] as usize, out);
        });
        Ok(())
    }

    fn linear(
        &mut self,
        x: &CpuBuffer,
        weight: &CpuLinear,
        call: LinearCall<'_, Self>,
        out: &mut CpuBuffer,
    ) -> Done {
        x.expect_columns(weight.in_features())?;
        out.expect_columns(weight.out_features())?;
        let add = call.epilogue == Epilogue::AddTo;
        if add && out.rows() != x.rows() {
            return broken(format!("{} rows added to {}", x.rows(), out.rows()));
        }
        let peaks = call.peaks.unwrap_or_default();
        if !peaks.is_empty() && peaks.len() != x.rows() * weight.rounding.peaks() {
            return broken(format!("{} peaks of {} rows", peaks.len(), x.rows()));
        }
        let outputs = weight.out_features();
        lora::check(call.lora, x.rows(), (weight.in_features(), outputs))?;
        let out = out.set_rows(x.rows())?;
        self.product((x.values(), peaks), weight, add, out)?;
        lora::add(self, call.lora, x.values(), (out, outputs))
    }

    fn input_peaks(&mut self, x: &CpuBuffer, weight: &CpuLinear, peaks: &mut Vec<f32>) -> Done {
        x.expect_columns(weight.in_features())?;
        peaks.clear();
        let rows = x.values().chunks_exact(weight.in_features());
        rows.for_each(|row| rounding::append_peaks(weight.rounding, row, peaks));
        Ok(())
    }

    fn rms_norm(&mut self, x: &CpuBuffer, norm: Norm<'_, Self>, out: &mut CpuBuffer) -> Done {
        let columns = x.columns();
        out.expect_columns(columns)?;
        expect_vector(norm.weight, columns)?;
        let (out, x) = (out.set_rows(x.rows())?, x.values());
        let normalize = self.norm_row();
        ops::each_row(&mut self.pool, (out, columns), &|row, out| {
            normalize(&x[row * columns..][..columns], norm.weight, norm.epsilon, out);
        });
        Ok(())
    }

    fn add_rms_norm(
        &mut self,
        x: &CpuBuffer,
        residual: &mut CpuBuffer,
        norm: Norm<'_, Self>,
        out: &mut CpuBuffer,
    ) -> Done {
        let columns = x.columns();
        residual.expect_like(x)?;
        out.expect_columns(columns)?;
        expect_vector(norm.weight, columns)?;
        let (out, residual) = (out.set_rows(x.rows())?, residual.values_mut());
        let (x, normalize) = (x.values(), self.norm_row());
        ops::each_row_of_two(&mut self.pool, (residual, out, columns), &|row, residual, out| {
            ops::add_to(residual, &x[row * columns..][..columns]);
            normalize(residual, norm.weight, norm.epsilon, out);
        });
        Ok(())
    }

    fn layer_norm(
        &mut self,
        x: &CpuBuffer,
        norm: LayerNorm<'_, Self>,
        out: &mut CpuBuffer,
    ) -> Done {
        let columns = x.columns();
        out.expect_columns(columns)?;
        expect_vector(norm.weight, columns)?;
        expect_vector(norm.bias, columns)?;
        let out = out.set_rows(x.rows())?;
        self.layer_norm_rows(x.values(), (norm.weight, norm.bias, norm.epsilon), (out, columns));
        Ok(())
    }

    fn head_rms_norm(
        &mut self,
        x: &mut CpuBuffer,
        columns: Range<usize>,
        norm: Norm<'_, Self>,
    ) -> Done {
        x.expect_range(&columns)?;
        if !columns.len().is_multiple_of(norm.weight.0.len()) {
            return broken(format!("heads of {} in {columns:?}", norm.weight.0.len()));
        }
        let width = x.columns();
        self.norm_heads((x.values_mut(), width), columns, (norm.weight, norm.epsilon));
        Ok(())
    }

    fn rope_write_kv(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &mut CpuBuffer,
        heads: HeadShape,
        rope: Option<&CpuRope>,
        kv: &mut KvPool,
    ) -> Done {
        expect_step(&step, qkv, heads, kv)?;
        if let Some(rope) = rope {
            rope.check(heads.head_dim, step.meta.limits().max_model_len)?;
            ops::rotate(&mut self.pool, (qkv.values_mut(), heads), step.meta, rope);
        }
        ops::write_kv((qkv.values(), heads), step.meta, step.at, kv)
    }

    fn attention(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &CpuBuffer,
        spec: &AttentionSpec,
        kv: &KvPool,
        out: &mut CpuBuffer,
    ) -> Done {
        let tables = expect_step(&step, qkv, spec.heads, kv)?;
        if !spec.mask.within(kv.spec().mask) {
            return broken(format!("{:?} in a group of {:?}", spec.mask, kv.spec().mask));
        }
        out.expect_columns(spec.heads.query_columns())?;
        let out = out.set_rows(step.meta.rows())?;
        let qkv = (qkv.values(), qkv.columns());
        self.attend((step.meta, tables), (spec, step.at.layer, kv), qkv, out);
        Ok(())
    }

    fn write_latent(
        &mut self,
        step: KvStep<'_, Self>,
        query: &mut CpuBuffer,
        rows: &mut CpuBuffer,
        call: LatentCall<'_, Self>,
        kv: &mut KvPool,
    ) -> Done {
        let shape = call.shape;
        latent::check_call(&call)?;
        expect_latent(&step, query, shape, kv)?;
        rows.expect_columns(shape.width())?;
        if rows.rows() != query.rows() {
            return broken(format!("{} latent rows for {} queries", rows.rows(), query.rows()));
        }
        call.rope.check(shape.rope_dim, step.meta.limits().max_model_len)?;
        let values = (query.values_mut(), rows.values_mut());
        latent::write(self, (step.meta, step.at), values, (shape, call.rope), kv)
    }

    fn latent_attention(
        &mut self,
        step: KvStep<'_, Self>,
        query: &CpuBuffer,
        call: LatentCall<'_, Self>,
        kv: &KvPool,
        out: &mut CpuBuffer,
    ) -> Done {
        latent::check_call(&call)?;
        let tables = expect_latent(&step, query, call.shape, kv)?;
        out.expect_columns(call.shape.heads * call.shape.value_dim)?;
        let out = out.set_rows(step.meta.rows())?;
        let place = latent::Place { step: step.meta, tables, kv, layer: step.at.layer };
        latent::attend(self, &place, (query.values(), call), out)
    }

    fn moe(
        &mut self,
        x: &CpuBuffer,
        weights: &ExpertWeights<'_, Self>,
        epilogue: Epilogue,
        out: &mut CpuBuffer,
    ) -> Done {
        experts::check(weights, weights.correction.map(|vector| vector.0.len()))?;
        x.expect_columns(weights.router.in_features())?;
        out.expect_columns(x.columns())?;
        let add = epilogue == Epilogue::AddTo;
        if add && out.rows() != x.rows() {
            return broken(format!("{} rows added to {}", x.rows(), out.rows()));
        }
        let out = out.set_rows(x.rows())?;
        experts::layer(self, x.values(), weights, add, out)
    }

    fn silu_mul(&mut self, gate_up: &CpuBuffer, out: &mut CpuBuffer) -> Done {
        let width = out.columns();
        gate_up.expect_columns(2 * width)?;
        let out = out.set_rows(gate_up.rows())?;
        self.gate(gate_up.values(), (out, width));
        Ok(())
    }

    fn gelu_mul(&mut self, gate_up: &CpuBuffer, out: &mut CpuBuffer) -> Done {
        let width = out.columns();
        gate_up.expect_columns(2 * width)?;
        let out = out.set_rows(gate_up.rows())?;
        self.gate_gelu(gate_up.values(), (out, width));
        Ok(())
    }

    fn gelu(&mut self, x: &mut CpuBuffer) -> Done {
        let columns = x.columns();
        self.gelu_rows((x.values_mut(), columns));
        Ok(())
    }

    fn scale(&mut self, x: &mut CpuBuffer, factor: f32) -> Done {
        x.values_mut().iter_mut().for_each(|value| *value *= factor);
        Ok(())
    }

    fn soft_cap(&mut self, x: &mut CpuBuffer, cap: f32) -> Done {
        x.values_mut().iter_mut().for_each(|value| *value = math::soft_cap(*value, cap));
        Ok(())
    }

    fn gather_logit_rows(&mut self, meta: &HostStep, x: &CpuBuffer, out: &mut CpuBuffer) -> Done {
        let columns = x.columns();
        out.expect_columns(columns)?;
        if x.rows() != meta.rows() {
            return broken(format!("{} rows of a step of {}", x.rows(), meta.rows()));
        }
        let out = out.set_rows(meta.logit_rows())?;
        for (out, row) in out.chunks_exact_mut(columns).zip(&meta.logit_rows) {
            out.copy_from_slice(&x.values()[row * columns..][..columns]);
        }
        Ok(())
    }

    fn add(&mut self, x: &CpuBuffer, out: &mut CpuBuffer) -> Done {
        out.expect_like(x)?;
        ops::add_to(out.values_mut(), x.values());
        Ok(())
    }

    fn export_kv(&mut self, kv: &KvPool, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Done {
        kv.export(span, bytes)
    }

    fn copy_kv(&mut self, kv: &mut KvPool, from: BlockId, to: BlockId) -> Done {
        kv.copy_block(from.0 as usize, to.0 as usize)
    }

    fn import_kv(&mut self, kv: &mut KvPool, span: &KvSpan<'_>, bytes: &[u8]) -> Done {
        kv.import(span, bytes)
    }

    fn save_block(&mut self, kv: &KvPool, block: BlockId, bytes: &mut Vec<u8>) -> Done {
        kv.save(block, bytes)
    }

    fn restore_block(&mut self, kv: &mut KvPool, block: BlockId, bytes: &[u8]) -> Done {
        kv.restore(block, bytes)
    }
}

type Done = Result<(), DeviceError>;

fn broken<T>(why: String) -> Result<T, DeviceError> {
    Err(DeviceError::Contract(why))
}

fn expect_vector(weight: &CpuVector, columns: usize) -> Done {
    match weight.0.len() {
        len if len == columns => Ok(()),
        len => broken(format!("{len} norm weights for rows of {columns}")),
    }
}

/// Fails unless rows, heads, tables and KV belong together; gives the tables.
fn expect_step<'a>(
    step: &KvStep<'a, CpuDevice>,
    qkv: &CpuBuffer,
    heads: HeadShape,
    kv: &KvPool,
) -> Result<&'a GroupTables, DeviceError> {
    heads.check()?;
    qkv.expect_columns(heads.fused_columns())?;
    let kind = KvKind::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    expect_kv(step, qkv, kind, kv)
}

/// Fails unless rows, heads, tables and a latent KV belong together; gives the tables.
fn expect_latent<'a>(
    step: &KvStep<'a, CpuDevice>,
    query: &CpuBuffer,
    shape: LatentShape,
    kv: &KvPool,
) -> Result<&'a GroupTables, DeviceError> {
    query.expect_columns(shape.heads * shape.query_dim())?;
    expect_kv(step, query, KvKind::Latent { width: shape.width() }, kv)
}

fn expect_kv<'a>(
    step: &KvStep<'a, CpuDevice>,
    rows: &CpuBuffer,
    kind: KvKind,
    kv: &KvPool,
) -> Result<&'a GroupTables, DeviceError> {
    if kv.spec().kind != kind {
        return broken(format!("{kind:?} with KV of {:?}", kv.spec().kind));
    }
    let tables = step.meta.groups.get(step.at.group).filter(|tables| tables.fits(kv));
    match tables {
        Some(tables) if step.at.layer < kv.spec().layers && rows.rows() == step.meta.rows() => {
            Ok(tables)
        }
        _ => broken(format!("{:?}, {} rows of {}", step.at, rows.rows(), step.meta.rows())),
    }
}
