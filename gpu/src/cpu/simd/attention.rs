//! Attention over paged KV, one task for up to 32 (row, query head) pairs of one KV head.
//!
//! Positions are taken in chunks of 64 at fixed absolute places. Within a chunk, scores of 16
//! positions fill a vector (keys are stored for that), softmax is taken on its own, and values are
//! added position by position; chunks are merged in order. So a row's result depends on what it
//! sees and on nothing else: not on the rows beside it, the blocks' size or how much was computed
//! before.

use super::{
    pool::Pieces,
    vector::{LANES, Simd, Stored, StoredBf16, StoredF16, StoredF32},
};
use crate::{
    cpu::{
        math::{self, tree},
        step::{CpuStep, GroupTables},
    },
    kv::pool::{KvData, KvPool, TILE},
    shape::AttentionSpec,
};

/// Positions that one softmax covers before results are merged.
pub(crate) const CHUNK: usize = 64;
/// Pairs of one task: what keeps a chunk's keys and values in the first-level cache useful.
const PAIRS: usize = 32;

/// One attention operation, to be computed task by task.
///
/// Whoever makes one has checked that the spec's heads are the pool's, that its mask is within the
/// group's, that `qkv` and `out` have the step's rows, and that the pool is at least as large as
/// the one that the step was prepared with.
pub(crate) struct Attention<'a> {
    pub(crate) spec: AttentionSpec,
    pub(crate) step: &'a CpuStep,
    pub(crate) tables: &'a GroupTables,
    pub(crate) kv: &'a KvPool,
    pub(crate) layer: usize,
    /// Fused rows; the query heads come first.
    pub(crate) qkv: &'a [f32],
    pub(crate) qkv_columns: usize,
    /// `[rows, query heads * head_dim]`.
    pub(crate) out: Pieces<'a, f32>,
    pub(crate) tasks: Vec<AttentionTask>,
}

/// Which pairs a task computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionTask {
    sequence: usize,
    kv_head: usize,
    /// Pairs are numbered row by row, the group's query heads within.
    first: usize,
    pairs: usize,
}

impl Attention<'_> {
    /// Multiply-adds of all tasks, at most.
    pub(crate) fn operations(&self) -> usize {
        let seen = self.step.sequences.iter().map(|rows| rows.count * (rows.computed + rows.count));
        2 * seen.sum::<usize>() * self.spec.heads.query_columns()
    }
}

impl AttentionTask {
    /// The tasks of a step: they cover every pair once.
    pub(crate) fn of_step(step: &CpuStep, spec: &AttentionSpec) -> Vec<Self> {
        let group = spec.heads.query_heads / spec.heads.kv_heads;
        let mut tasks = Vec::new();
        for (sequence, rows) in step.sequences.iter().enumerate() {
            let all = rows.count * group;
            for first in (0..all).step_by(PAIRS) {
                let pairs = PAIRS.min(all - first);
                tasks.extend((0..spec.heads.kv_heads).map(|kv_head| Self {
                    sequence,
                    kv_head,
                    first,
                    pairs,
                }));
            }
        }
        tasks
    }
}

/// Computes one task.
///
/// # Safety
/// The machine must have what `S` needs; each task is run once.
#[inline(always)]
pub(crate) unsafe fn task<S: Simd>(job: &Attention<'_>, task: usize) {
    let task = job.tasks[task];
    // SAFETY: as this function's.
    unsafe {
        match &job.kv.data {
            KvData::Bf16(data) => attend::<S, StoredBf16>(job, task, data),
            KvData::F16(data) => attend::<S, StoredF16>(job, task, data),
            KvData::F32(data) => attend::<S, StoredF32>(job, task, data),
        }
    }
}

/// What a task carries from chunk to chunk.
struct Pairs<'a, E: Stored> {
    job: &'a Attention<'a>,
    data: &'a [E::Raw],
    table: &'a [u32],
    kv_head: usize,
    /// Each pair's query.
    queries: [*const f32; PAIRS],
    /// Each pair's first visible position and one past its last.
    spans: [(usize, usize); PAIRS],
    /// Greatest score and sum of exponentials so far.
    peaks: [f32; PAIRS],
    sums: [f32; PAIRS],
    /// `[pair][value stride]`, weighted values so far.
    values: Vec<f32>,
}

#[inline(always)]
unsafe fn attend<S: Simd, E: Stored>(job: &Attention<'_>, task: AttentionTask, data: &[E::Raw]) {
    let layout = &job.kv.layout;
    let rows = &job.step.sequences[task.sequence];
    let group = job.spec.heads.query_heads / job.spec.heads.kv_heads;
    let dim = layout.head_dim;
    let mut pairs = Pairs::<E> {
        job,
        data,
        table: job.tables.of_sequence(task.sequence),
        kv_head: task.kv_head,
        queries: [std::ptr::null(); PAIRS],
        spans: [(0, 0); PAIRS],
        peaks: [0.0; PAIRS],
        sums: [0.0; PAIRS],
        values: vec![0.0; task.pairs * layout.value_stride],
    };
    let place = |pair: usize| {
        let number = task.first + pair;
        (rows.row + number / group, task.kv_head * group + number % group)
    };
    for pair in 0..task.pairs {
        let (row, head) = place(pair);
        let start = row * job.qkv_columns + head * dim;
        pairs.queries[pair] = job.qkv[start..start + dim].as_ptr();
        let position = job.step.positions[row];
        let (from, to) = job.spec.mask.visible(position, (rows.computed + rows.count) as u32);
        pairs.spans[pair] = (from as usize, to as usize);
    }
    let spans = &pairs.spans[..task.pairs];
    let first = spans.iter().map(|span| span.0).min().unwrap_or(0) / CHUNK;
    let end = spans.iter().map(|span| span.1).max().unwrap_or(0).div_ceil(CHUNK);
    for chunk in first..end {
        for from in (0..task.pairs).step_by(S::QUERIES) {
            let count = S::QUERIES.min(task.pairs - from);
            // SAFETY: as this function's; the pairs exist.
            unsafe {
                match count {
                    1 => chunk_of::<S, E, 1>(&mut pairs, from, chunk * CHUNK),
                    2 => chunk_of::<S, E, 2>(&mut pairs, from, chunk * CHUNK),
                    3 => chunk_of::<S, E, 3>(&mut pairs, from, chunk * CHUNK),
                    4 => chunk_of::<S, E, 4>(&mut pairs, from, chunk * CHUNK),
                    5 => chunk_of::<S, E, 5>(&mut pairs, from, chunk * CHUNK),
                    6 => chunk_of::<S, E, 6>(&mut pairs, from, chunk * CHUNK),
                    7 => chunk_of::<S, E, 7>(&mut pairs, from, chunk * CHUNK),
                    _ => chunk_of::<S, E, 8>(&mut pairs, from, chunk * CHUNK),
                }
            }
        }
    }
    for pair in 0..task.pairs {
        let (row, head) = place(pair);
        let start = row * job.spec.heads.query_columns() + head * dim;
        // SAFETY: pairs of tasks are disjoint.
        let out = unsafe { job.out.piece(start, dim) };
        let scale = 1.0 / pairs.sums[pair];
        for (out, value) in out.iter_mut().zip(&pairs.values[pair * layout.value_stride..]) {
            *out = value * scale;
        }
    }
}

/// Scores, or weights, of a chunk; a tile that starts inside it may write 15 beyond.
type Scores<const R: usize> = [[f32; CHUNK + LANES]; R];

/// One chunk for the pairs `first..first + R`.
#[inline(always)]
unsafe fn chunk_of<S: Simd, E: Stored, const R: usize>(
    pairs: &mut Pairs<'_, E>,
    first: usize,
    start: usize,
) {
    let mut seen = [(0, 0); R];
    for (r, seen) in seen.iter_mut().enumerate() {
        let (from, to) = pairs.spans[first + r];
        *seen = (from.clamp(start, start + CHUNK) - start, to.clamp(start, start + CHUNK) - start);
    }
    let visible = seen.iter().filter(|span| span.0 < span.1);
    let Some(from) = visible.clone().map(|span| span.0).min() else {
        return;
    };
    let to = visible.map(|span| span.1).max().unwrap_or(from);
    // SAFETY: as the caller's; `from..to` of the chunk is visible to some row, so its blocks are in
    // the table.
    unsafe {
        let mut scores: Scores<R> = [[0.0; CHUNK + LANES]; R];
        score::<S, E, R>(pairs, first, (start + from, start + to), &mut scores);
        let mut factors = [(1.0, 0.0); R];
        for r in 0..R {
            if seen[r].0 < seen[r].1 {
                let (peak, sum) = soften::<S>(&mut scores[r], seen[r], &pairs.job.spec);
                factors[r] = merge(pairs, first + r, peak, sum);
            } else {
                scores[r].fill(0.0);
            }
        }
        let rows = value_rows(pairs, start, (from, to));
        let mut dim = 0;
        while dim < pairs.job.kv.layout.value_stride {
            let wide = S::QUERIES > 4 && dim + 2 * LANES <= pairs.job.kv.layout.value_stride;
            let span = Weighted { first, from, to, dim, seen: &seen, factors: &factors };
            if wide {
                add_values::<S, E, R, 2>(pairs, &scores, &rows, &span);
                dim += 2 * LANES;
            } else {
                add_values::<S, E, R, 1>(pairs, &scores, &rows, &span);
                dim += LANES;
            }
        }
    }
}

/// Dot products with the keys at positions `from..to`, and with whatever shares their tiles.
#[inline(always)]
unsafe fn score<S: Simd, E: Stored, const R: usize>(
    pairs: &Pairs<'_, E>,
    first: usize,
    (from, to): (usize, usize),
    scores: &mut Scores<R>,
) {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let chunk = from / CHUNK * CHUNK;
    let queries: [*const f32; R] = std::array::from_fn(|r| pairs.queries[first + r]);
    let mut position = from;
    while position < to {
        let (block, offset) = (position / size, position % size / TILE * TILE);
        let tile = block_start(pairs, block) + offset * layout.head_dim;
        // SAFETY: the tile has `head_dim * 16` elements (sliced, so checked), each query
        // `head_dim`; block sizes are powers of two, so a tile starts inside the chunk.
        unsafe {
            let mut keys = pairs.data[tile..tile + layout.head_dim * TILE].as_ptr();
            let mut sums = [S::splat(0.0); R];
            for dim in 0..layout.head_dim {
                let key = E::load::<S>(keys);
                keys = keys.add(TILE);
                for (sum, query) in sums.iter_mut().zip(&queries) {
                    *sum = S::fma(S::splat(*query.add(dim)), key, *sum);
                }
            }
            let at = block * size + offset - chunk;
            for (scores, sum) in scores.iter_mut().zip(sums) {
                S::store(scores[at..at + LANES].as_mut_ptr(), sum);
            }
        }
        position = (block * size + offset + TILE).min((block + 1) * size);
    }
}

/// Turns the scores at `from..to` of a chunk into weights, all others into zeros; gives the
/// greatest scaled score and the sum of the weights.
#[inline(always)]
unsafe fn soften<S: Simd>(
    scores: &mut [f32; CHUNK + LANES],
    (from, to): (usize, usize),
    spec: &AttentionSpec,
) -> (f32, f32) {
    for score in &mut scores[from..to] {
        *score *= spec.scale;
    }
    if let Some(cap) = spec.soft_cap {
        for score in &mut scores[from..to] {
            *score = math::soft_cap(*score, cap);
        }
    }
    scores[..from].fill(f32::NEG_INFINITY);
    scores[to..].fill(f32::NEG_INFINITY);
    // SAFETY: all loads and stores are within the chunk.
    unsafe {
        let mut peaks = S::load(scores.as_ptr());
        for at in (LANES..CHUNK).step_by(LANES) {
            peaks = S::max(peaks, S::load(scores.as_ptr().add(at)));
        }
        let peak = S::lanes(peaks).into_iter().fold(f32::NEG_INFINITY, math::max);
        for at in (0..CHUNK).step_by(LANES) {
            let score = S::load(scores.as_ptr().add(at));
            S::store(scores.as_mut_ptr().add(at), S::exp(S::sub(score, S::splat(peak))));
        }
        scores[..from].fill(0.0);
        scores[to..].fill(0.0);
        let mut sums = S::load(scores.as_ptr());
        for at in (LANES..CHUNK).step_by(LANES) {
            sums = S::add(sums, S::load(scores.as_ptr().add(at)));
        }
        (peak, tree(S::lanes(sums)))
    }
}

/// Takes a chunk's peak and sum into a pair's; gives the factors for the values so far and for the
/// chunk's.
#[inline(always)]
fn merge<E: Stored>(pairs: &mut Pairs<'_, E>, pair: usize, peak: f32, sum: f32) -> (f32, f32) {
    if pairs.sums[pair] == 0.0 {
        (pairs.peaks[pair], pairs.sums[pair]) = (peak, sum);
        return (0.0, 1.0);
    }
    let highest = math::max(pairs.peaks[pair], peak);
    let old = math::exp(pairs.peaks[pair] - highest);
    let new = math::exp(peak - highest);
    pairs.peaks[pair] = highest;
    pairs.sums[pair] = pairs.sums[pair] * old + sum * new;
    (old, new)
}

/// Where a block's elements of this task's head begin.
#[inline(always)]
fn block_start<E: Stored>(pairs: &Pairs<'_, E>, block: usize) -> usize {
    let id = pairs.table[block] as usize;
    let layout = &pairs.job.kv.layout;
    assert!(id < layout.blocks);
    layout.head(pairs.job.layer, id, pairs.kv_head)
}

/// The value rows at `from..to` of a chunk.
#[inline(always)]
fn value_rows<E: Stored>(
    pairs: &Pairs<'_, E>,
    start: usize,
    (from, to): (usize, usize),
) -> [*const E::Raw; CHUNK] {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let mut rows = [std::ptr::null(); CHUNK];
    let mut at = from;
    while at < to {
        let (block, offset) = ((start + at) / size, (start + at) % size);
        let count = (size - offset).min(to - at);
        let first = block_start(pairs, block) + layout.values + offset * layout.value_stride;
        let values = &pairs.data[first..first + count * layout.value_stride];
        for (row, values) in rows[at..].iter_mut().zip(values.chunks_exact(layout.value_stride)) {
            *row = values.as_ptr();
        }
        at += count;
    }
    rows
}

/// What [`add_values`] adds.
struct Weighted<'a> {
    first: usize,
    from: usize,
    to: usize,
    /// First element of the value rows.
    dim: usize,
    seen: &'a [(usize, usize)],
    factors: &'a [(f32, f32)],
}

/// Sums weighted values over the chunk, then merges them into the pairs' own: `16 * D` elements.
#[inline(always)]
unsafe fn add_values<S: Simd, E: Stored, const R: usize, const D: usize>(
    pairs: &mut Pairs<'_, E>,
    weights: &Scores<R>,
    rows: &[*const E::Raw; CHUNK],
    span: &Weighted<'_>,
) {
    let stride = pairs.job.kv.layout.value_stride;
    // SAFETY: rows at `from..to` are set and have `stride` elements; `dim + 16 * D <= stride`.
    unsafe {
        let mut sums = [[S::splat(0.0); D]; R];
        for at in span.from..span.to {
            let row = rows.get_unchecked(at).add(span.dim);
            let mut values = [S::splat(0.0); D];
            for (d, value) in values.iter_mut().enumerate() {
                *value = E::load::<S>(row.add(d * LANES));
            }
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = S::splat(*weights.get_unchecked(at));
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum = S::fma(weight, *value, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            // A pair that sees nothing here keeps what it has, to the bit.
            if span.seen[r].0 >= span.seen[r].1 {
                continue;
            }
            let (old, new) = (S::splat(span.factors[r].0), S::splat(span.factors[r].1));
            let start = (span.first + r) * stride + span.dim;
            let kept = pairs.values[start..start + D * LANES].as_mut_ptr();
            for (d, sum) in sums.iter().enumerate() {
                let kept = kept.add(d * LANES);
                S::store(kept, S::add(S::mul(S::load(kept), old), S::mul(*sum, new)));
            }
        }
    }
}
