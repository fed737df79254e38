//! What the CPU's operations do, once sizes are checked: rows shared out over the pool, reductions
//! left to the kernels.

use std::ops::Range;

use crate::{
    backend::{PreparedLinear, RopeSpec},
    cpu::{
        CpuDevice, math,
        packed::CpuLinear,
        reference,
        simd::{
            attention::Attention,
            grouped::{self, Group},
            pool::{OnTwo, Pieces, Pool},
            product::Product,
            tasks::{Part, Tasks},
        },
    },
    error::DeviceError,
    kv::{KvPool, pool::KvSlot},
    shape::{AttentionSpec, HeadShape, KvAt},
    step::{GroupTables, HostStep},
};

/// Sines and cosines by position.
#[derive(Debug)]
pub struct CpuRope {
    /// `[position][pair]` of (cosine, sine).
    table: Vec<(f32, f32)>,
    pairs: usize,
}

impl CpuRope {
    pub(crate) fn new(spec: &RopeSpec<'_>) -> Self {
        let factor = f64::from(spec.attention_factor);
        let table = (0..spec.positions).flat_map(|position| {
            spec.inverse_frequencies.iter().map(move |frequency| {
                let angle = f64::from(position as f32 * frequency);
                ((angle.cos() * factor) as f32, (angle.sin() * factor) as f32)
            })
        });
        Self { table: table.collect(), pairs: spec.inverse_frequencies.len() }
    }

    /// Fails unless it has `positions` and its pairs fit a head of `head_dim` elements.
    pub(crate) fn check(&self, head_dim: usize, positions: usize) -> Result<(), DeviceError> {
        if self.pairs * 2 <= head_dim && self.table.len() >= positions * self.pairs {
            return Ok(());
        }
        Err(DeviceError::Contract(format!(
            "{} rotated pairs and {} entries for heads of {head_dim} and {positions} positions",
            self.pairs,
            self.table.len()
        )))
    }

    /// Rotates all of `part`, whose pairs are neighbors or halves.
    pub(crate) fn rotate_part(&self, position: usize, part: &mut [f32], interleaved: bool) {
        if !interleaved {
            return self.rotate(position, part);
        }
        let row = &self.table[position * self.pairs..][..self.pairs];
        for (pair, (cos, sin)) in part.chunks_exact_mut(2).zip(row) {
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
        }
    }

    fn rotate(&self, position: usize, head: &mut [f32]) {
        let (first, second) = head[..2 * self.pairs].split_at_mut(self.pairs);
        let row = &self.table[position * self.pairs..][..self.pairs];
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(row) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Rows per task, so that a task is worth sharing and there are not too many.
fn rows_per_task(columns: usize) -> usize {
    TASK_ELEMENTS.div_ceil(columns.max(1))
}

const TASK_ELEMENTS: usize = 32 * 1024;

/// Calls `call(row number, row)` for every row of `data`.
pub(crate) fn each_row(
    pool: &mut Pool,
    (data, columns): (&mut [f32], usize),
    call: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let rows = rows_per_task(columns);
    pool.chunks(data, rows * columns, &|task, piece| {
        for (row, values) in piece.chunks_exact_mut(columns).enumerate() {
            call(task * rows + row, values);
        }
    });
}

/// As [`each_row`] over two buffers of one width.
pub(crate) fn each_row_of_two(
    pool: &mut Pool,
    (first, second, columns): (&mut [f32], &mut [f32], usize),
    call: &OnTwo<'_, f32, f32>,
) {
    let rows = rows_per_task(columns);
    let chunk = rows * columns;
    pool.chunks_of_two((first, chunk), (second, chunk), &|task, a, b| {
        let pairs = a.chunks_exact_mut(columns).zip(b.chunks_exact_mut(columns));
        for (row, (a, b)) in pairs.enumerate() {
            call(task * rows + row, a, b);
        }
    });
}

/// `out += x`.
pub(crate) fn add_to(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// Rotates queries and keys of all rows.
pub(crate) fn rotate(
    pool: &mut Pool,
    (qkv, heads): (&mut [f32], HeadShape),
    step: &HostStep,
    rope: &CpuRope,
) {
    let rotated = heads.query_columns() + heads.kv_columns();
    each_row(pool, (qkv, heads.fused_columns()), &|row, values| {
        for head in values[..rotated].chunks_exact_mut(heads.head_dim) {
            rope.rotate(step.positions[row] as usize, head);
        }
    });
}

/// Writes keys and values of all rows to a layer's KV.
pub(crate) fn write_kv(
    (qkv, heads): (&[f32], HeadShape),
    step: &HostStep,
    at: KvAt,
    kv: &mut KvPool,
) -> Result<(), DeviceError> {
    let size = kv.spec().block_size;
    let (first_key, first_value) =
        (heads.query_columns(), heads.query_columns() + heads.kv_columns());
    for (number, rows) in step.sequences.iter().enumerate() {
        let table = step.groups[at.group].of_sequence(number);
        for row in rows.row..rows.row + rows.count {
            let position = step.positions[row] as usize;
            let values = &qkv[row * heads.fused_columns()..][..heads.fused_columns()];
            for head in 0..heads.kv_heads {
                let block = table[position / size] as usize;
                let slot = KvSlot { layer: at.layer, block, head, position: position % size };
                let columns = head * heads.head_dim..(head + 1) * heads.head_dim;
                kv.write(
                    slot,
                    &values[first_key..][columns.clone()],
                    &values[first_value..][columns],
                )?;
            }
        }
    }
    Ok(())
}

impl CpuDevice {
    /// The product for rows of `x`, whose scales follow from `peaks` if there are any.
    pub(crate) fn product(
        &mut self,
        (x, peaks): (&[f32], &[f32]),
        weight: &CpuLinear,
        add: bool,
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Some(isa) = self.isa else {
            reference::linear((x, peaks), weight, add, out);
            return Ok(());
        };
        let (width, words) = (weight.in_features(), isa.row_words(weight));
        let (rows, each) = (x.len() / width, weight.rounding.peaks());
        self.laid_out.reserve(rows * words)?;
        let to = &mut self.laid_out[..rows * words];
        let tile_rows = isa.tile_rows(weight);
        self.pool.chunks(to, tile_rows * words, &|tile, out| {
            let (first, rows) = (tile * tile_rows, out.len() / words);
            let x = &x[first * width..][..rows * width];
            let peaks = peaks.get(first * each..(first + rows) * each).unwrap_or_default();
            isa.lay_out(weight, x, peaks, out);
        });
        let x = &self.laid_out[..rows * words];
        isa.product(&mut self.pool, &Product { x, rows, weight, add, out: Pieces::new(out) });
        Ok(())
    }

    /// The products of each group's rows of `x`, which follow each other, into the same rows of
    /// `out`.
    pub(crate) fn products(
        &mut self,
        x: &[f32],
        groups: &[Group<'_>],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Some(isa) = self.isa else {
            let (mut x, mut out) = (x, out);
            for Group { weight, rows } in groups {
                let (own, rest) = x.split_at(rows * weight.in_features());
                let (own_out, rest_out) = out.split_at_mut(rows * weight.out_features());
                reference::linear((own, &[]), weight, false, own_out);
                (x, out) = (rest, rest_out);
            }
            return Ok(());
        };
        grouped::products(isa, (&mut self.pool, &mut self.laid_out), x, groups, out)
    }

    /// RMS norm of one row into another.
    pub(crate) fn norm_row(&self) -> impl Fn(&[f32], &CpuVector, f32, &mut [f32]) + Sync + 'static {
        let isa = self.isa;
        move |x, weight, epsilon, out| {
            let sum = isa.map_or_else(|| reference::sum_of_squares(x), |isa| isa.sum_of_squares(x));
            let scale = norm_scale(sum, x.len(), epsilon);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(&weight.0) {
                *out = x * scale * weight;
            }
        }
    }

    /// Layer norm of all rows into others.
    pub(crate) fn layer_norm_rows(
        &mut self,
        x: &[f32],
        (weight, bias, epsilon): (&CpuVector, &CpuVector, f32),
        (out, columns): (&mut [f32], usize),
    ) {
        let isa = self.isa;
        each_row(&mut self.pool, (out, columns), &|row, out| {
            let x = &x[row * columns..][..columns];
            let mean = math::sum(x) / columns as f32;
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x - mean);
            let sum =
                isa.map_or_else(|| reference::sum_of_squares(out), |isa| isa.sum_of_squares(out));
            let scale = norm_scale(sum, columns, epsilon);
            for ((out, weight), bias) in out.iter_mut().zip(&weight.0).zip(&bias.0) {
                *out = *out * scale * weight + bias;
            }
        });
    }

    /// RMS norm in place over each head in some columns of a row.
    pub(crate) fn norm_heads(
        &mut self,
        (data, width): (&mut [f32], usize),
        columns: Range<usize>,
        (weight, epsilon): (&CpuVector, f32),
    ) {
        let isa = self.isa;
        each_row(&mut self.pool, (data, width), &|_, row| {
            for head in row[columns.clone()].chunks_exact_mut(weight.0.len()) {
                let sum = isa.map_or_else(
                    || reference::sum_of_squares(head),
                    |isa| isa.sum_of_squares(head),
                );
                let scale = norm_scale(sum, head.len(), epsilon);
                for (x, weight) in head.iter_mut().zip(&weight.0) {
                    *x = *x * scale * weight;
                }
            }
        });
    }

    /// `out = silu(gate) * up` for all rows.
    pub(crate) fn gate(&mut self, gate_up: &[f32], (out, width): (&mut [f32], usize)) {
        let isa = self.isa;
        each_row(&mut self.pool, (out, width), &|row, out| {
            let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
            match isa {
                Some(isa) => isa.silu_mul(gate, up, out),
                None => {
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *out = math::silu(*gate) * up;
                    }
                }
            }
        });
    }

    /// `out = gelu(gate) * up` for all rows.
    pub(crate) fn gate_gelu(&mut self, gate_up: &[f32], (out, width): (&mut [f32], usize)) {
        let isa = self.isa;
        each_row(&mut self.pool, (out, width), &|row, out| {
            let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
            match isa {
                Some(isa) => isa.gelu_mul(gate, up, out),
                None => {
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *out = math::gelu(*gate) * up;
                    }
                }
            }
        });
    }

    /// Each value its exact Gaussian error linear unit.
    pub(crate) fn gelu_rows(&mut self, (values, width): (&mut [f32], usize)) {
        let isa = self.isa;
        each_row(&mut self.pool, (values, width), &|_, row| match isa {
            Some(isa) => isa.gelu(row),
            None => row.iter_mut().for_each(|value| *value = math::gelu_exact(*value)),
        });
    }

    /// Attention for all rows; everything was checked.
    pub(crate) fn attend(
        &mut self,
        (step, tables): (&HostStep, &GroupTables),
        (spec, layer, kv): (&AttentionSpec, usize, &KvPool),
        (qkv, qkv_columns): (&[f32], usize),
        out: &mut [f32],
    ) {
        let spec = *spec;
        let Some(isa) = self.isa else {
            let job = reference::Attention { spec, step, tables, kv, layer };
            return job.run(qkv, qkv_columns, out);
        };
        let Tasks { tasks, merges, parts } = Tasks::of_step(step, &spec, self.pool.threads());
        let mut sums: Vec<Part> = Vec::new();
        sums.resize_with(parts, Part::default);
        let (out, parts) = (Pieces::new(out), Pieces::new(&mut sums));
        let job = Attention { spec, step, tables, kv, layer, qkv, qkv_columns, out, tasks, parts };
        isa.attention(&mut self.pool, &job, &merges);
    }
}

/// Norm weights.
#[derive(Debug)]
pub struct CpuVector(pub(crate) Vec<f32>);

fn norm_scale(sum: f32, len: usize, epsilon: f32) -> f32 {
    1.0 / (sum / len as f32 + epsilon).sqrt()
}
