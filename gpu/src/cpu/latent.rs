//! Latent attention on the CPU: queries are taken into the space of the compressed rows, so that
//! every head attends over the rows as they are stored, and each head's values are made of what
//! comes out. It is always done so, for prompts too: a row's bits must not depend on how it was
//! computed, and expanding the rows to keys and values would add up in another order.

use crate::{
    backend::{LatentCall, PreparedLinear},
    cpu::{
        CpuDevice,
        aligned::Aligned,
        math::{exp, max, tree},
        ops::{CpuRope, each_row},
        simd::{
            attention::CHUNK,
            grouped::Group,
            latent::{Latent, LatentTask},
            pool::Pieces,
        },
    },
    error::DeviceError,
    kv::{KvPool, pool::KvSlot},
    shape::{KvAt, LatentShape},
    step::{GroupTables, HostStep},
};

/// Working memory, `[head][row][elements]` each.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// The queries' parts without position.
    nope: Aligned<f32>,
    absorbed: Aligned<f32>,
    attended: Aligned<f32>,
    values: Aligned<f32>,
}

/// Step, layer and KV that an operation works on; everything was checked.
pub(crate) struct Place<'a> {
    pub(crate) step: &'a HostStep,
    pub(crate) tables: &'a GroupTables,
    pub(crate) kv: &'a KvPool,
    pub(crate) layer: usize,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let none = || Aligned::zeroed(0);
        Ok(Self { nope: none()?, absorbed: none()?, attended: none()?, values: none()? })
    }

    fn reserve(&mut self, rows: usize, shape: LatentShape) -> Result<(), DeviceError> {
        let pairs = rows * shape.heads;
        self.nope.reserve(pairs * shape.nope_dim)?;
        self.absorbed.reserve(pairs * shape.rank)?;
        self.attended.reserve(pairs * shape.rank)?;
        self.values.reserve(pairs * shape.value_dim)
    }
}

/// Rotates and stores, as [`crate::backend::Backend::write_latent`] says.
pub(crate) fn write(
    device: &mut CpuDevice,
    (step, at): (&HostStep, KvAt),
    (query, latent): (&mut [f32], &mut [f32]),
    (shape, rope): (LatentShape, &CpuRope),
    kv: &mut KvPool,
) -> Result<(), DeviceError> {
    let rotate = |row: usize, part: &mut [f32]| {
        rope.rotate_part(step.positions[row] as usize, part, shape.interleaved);
    };
    let columns = shape.heads * shape.query_dim();
    each_row(&mut device.pool, (query, columns), &|row, values| {
        for head in values.chunks_exact_mut(shape.query_dim()) {
            rotate(row, &mut head[shape.nope_dim..]);
        }
    });
    each_row(&mut device.pool, (latent, shape.width()), &|row, values| {
        rotate(row, &mut values[shape.rank..]);
    });
    let size = kv.spec().block_size;
    for (number, rows) in step.sequences.iter().enumerate() {
        let table = step.groups[at.group].of_sequence(number);
        for row in rows.row..rows.row + rows.count {
            let position = step.positions[row] as usize;
            let block = table[position / size] as usize;
            let slot = KvSlot { layer: at.layer, block, head: 0, position: position % size };
            kv.write_row(slot, &latent[row * shape.width()..][..shape.width()])?;
        }
    }
    Ok(())
}

/// Attends, as [`crate::backend::Backend::latent_attention`] says.
pub(crate) fn attend(
    device: &mut CpuDevice,
    place: &Place<'_>,
    (query, call): (&[f32], LatentCall<'_, CpuDevice>),
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let shape = call.shape;
    let total = place.step.positions.len();
    // So many rows at a time that working memory stays some tens of megabytes.
    let at_once = (SCRATCH_ELEMENTS / (shape.heads * shape.rank)).max(1);
    let mut scratch = std::mem::replace(&mut device.latent, Scratch::new()?);
    for first in (0..total).step_by(at_once) {
        let rows = at_once.min(total - first);
        scratch.reserve(rows, shape)?;
        let columns = shape.heads * shape.value_dim;
        let out = &mut out[first * columns..][..rows * columns];
        attend_rows(device, place, (first, rows), (query, call), &mut scratch, out)?;
    }
    device.latent = scratch;
    Ok(())
}

fn attend_rows(
    device: &mut CpuDevice,
    place: &Place<'_>,
    (first, rows): (usize, usize),
    (query, call): (&[f32], LatentCall<'_, CpuDevice>),
    scratch: &mut Scratch,
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let shape = call.shape;
    let pairs = rows * shape.heads;
    let nope = &mut scratch.nope[..pairs * shape.nope_dim];
    each_row(&mut device.pool, (nope, shape.nope_dim), &|at, out| {
        let (head, row) = (at / rows, first + at % rows);
        let from = (row * shape.heads + head) * shape.query_dim();
        out.copy_from_slice(&query[from..][..shape.nope_dim]);
    });
    let absorbed = &mut scratch.absorbed[..pairs * shape.rank];
    device.products(nope, &by_head(call.absorb, rows), absorbed)?;
    let attended = &mut scratch.attended[..pairs * shape.rank];
    match device.isa {
        Some(isa) => {
            let tasks = LatentTask::of_rows(place.step, shape.heads, (first, rows));
            let job = Latent {
                shape,
                scale: call.scale,
                step: place.step,
                tables: place.tables,
                kv: place.kv,
                layer: place.layer,
                rows: (first, rows),
                absorbed,
                query,
                out: Pieces::new(attended),
                tasks,
            };
            isa.latent(&mut device.pool, &job);
        }
        None => {
            let job = Reference { place, shape, scale: call.scale, rows: (first, rows) };
            job.run((absorbed, query), attended);
        }
    }
    let values = &mut scratch.values[..pairs * shape.value_dim];
    device.products(attended, &by_head(call.expand, rows), values)?;
    let columns = shape.heads * shape.value_dim;
    each_row(&mut device.pool, (out, columns), &|row, out| {
        for (head, out) in out.chunks_exact_mut(shape.value_dim).enumerate() {
            let from = (head * rows + row) * shape.value_dim;
            out.copy_from_slice(&values[from..][..shape.value_dim]);
        }
    });
    Ok(())
}

fn by_head(
    weights: &[<CpuDevice as crate::backend::Backend>::Linear],
    rows: usize,
) -> Vec<Group<'_>> {
    weights.iter().map(|weight| Group { weight, rows }).collect()
}

/// Fails unless there is a product for each head, of the right sizes.
pub(crate) fn check_call(call: &LatentCall<'_, CpuDevice>) -> Result<(), DeviceError> {
    let shape = call.shape;
    shape.check()?;
    let fits = |weights: &[crate::cpu::packed::CpuLinear], from: usize, to: usize| {
        let is_so = |weight: &crate::cpu::packed::CpuLinear| {
            (weight.in_features(), weight.out_features()) == (from, to)
        };
        weights.len() == shape.heads && weights.iter().all(is_so)
    };
    match fits(call.absorb, shape.nope_dim, shape.rank)
        && fits(call.expand, shape.rank, shape.value_dim)
    {
        true => Ok(()),
        false => Err(DeviceError::Contract(format!("products that do not fit {shape:?}"))),
    }
}

/// Attention in plain loops, in the order that [`crate::cpu`] states.
struct Reference<'a> {
    place: &'a Place<'a>,
    shape: LatentShape,
    scale: f32,
    rows: (usize, usize),
}

impl Reference<'_> {
    fn run(&self, (absorbed, query): (&[f32], &[f32]), out: &mut [f32]) {
        let (shape, (first, rows)) = (self.shape, self.rows);
        for (number, own) in self.place.step.sequences.iter().enumerate() {
            for row in own.row.max(first)..(own.row + own.count).min(first + rows) {
                for head in 0..shape.heads {
                    let at = (head * rows + row - first) * shape.rank;
                    let rotated = (row * shape.heads + head) * shape.query_dim() + shape.nope_dim;
                    let parts =
                        [&absorbed[at..][..shape.rank], &query[rotated..][..shape.rope_dim]];
                    let end = self.place.step.positions[row] as usize + 1;
                    self.pair(number, end, &parts.concat(), &mut out[at..at + shape.rank]);
                }
            }
        }
    }

    fn pair(&self, sequence: usize, end: usize, query: &[f32], out: &mut [f32]) {
        let kv = self.place.kv;
        let (table, size) = (self.place.tables.of_sequence(sequence), kv.spec().block_size);
        let slot = |position: usize| KvSlot {
            layer: self.place.layer,
            block: table[position / size] as usize,
            head: 0,
            position: position % size,
        };
        let score = |position: usize| {
            let elements = query.iter().enumerate();
            let dot =
                |sum, (at, query): (usize, &f32)| query.mul_add(kv.key(slot(position), at), sum);
            elements.fold(0.0, dot) * self.scale
        };
        let (mut peak, mut sum) = (0.0f32, 0.0f32);
        out.fill(0.0);
        for start in (0..end).step_by(CHUNK) {
            let seen = start..end.min(start + CHUNK);
            let scores: Vec<f32> = seen.clone().map(score).collect();
            let chunk_peak = scores.iter().fold(f32::NEG_INFINITY, |a, &b| max(a, b));
            let weights: Vec<f32> = scores.iter().map(|score| exp(score - chunk_peak)).collect();
            let mut lanes = [0.0; 16];
            for (at, weight) in seen.clone().zip(&weights) {
                lanes[at % 16] += weight;
            }
            let highest = if sum == 0.0 { chunk_peak } else { max(peak, chunk_peak) };
            let old = if sum == 0.0 { 0.0 } else { exp(peak - highest) };
            let new = exp(chunk_peak - highest);
            (peak, sum) = (highest, sum * old + tree(lanes) * new);
            for (at, out) in out.iter_mut().enumerate() {
                let value = seen.clone().zip(&weights).fold(0.0, |value, (position, weight)| {
                    weight.mul_add(kv.key(slot(position), at), value)
                });
                *out = *out * old + value * new;
            }
        }
        for out in out {
            *out *= 1.0 / sum;
        }
    }
}

/// Elements of one array of working memory, more or less.
const SCRATCH_ELEMENTS: usize = 4 << 20;
