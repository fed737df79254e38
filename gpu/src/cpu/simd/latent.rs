//! Attention over rows that all heads share, one task for up to 16 (row, query head) pairs.
//!
//! Vector lanes are the pairs while scores are computed, because every pair reads the same rows,
//! and elements of the row while values are added up. Orders are those of ordinary attention:
//! chunks of 64 positions at fixed places, softmax in each, chunks merged in order. A chunk's rows
//! are widened once for all of a task's pairs.

use super::{
    attention::CHUNK,
    pool::Pieces,
    vector::{LANES, Simd, Stored, StoredBf16, StoredF16, StoredF32},
};
use crate::{
    cpu::math::{self, tree},
    kv::pool::{KvData, KvPool},
    shape::LatentShape,
    step::{GroupTables, HostStep},
};

/// Positions whose scores are computed side by side.
const POSITIONS: usize = 8;
/// Pairs whose values are added up side by side.
const PAIRS: usize = 4;

/// One latent attention over some rows of a step, to be computed task by task.
///
/// Whoever makes one has checked that the KV is latent and as wide as the shape says, that buffers
/// have the rows, and that the pool is at least as large as the one that the step was prepared
/// with.
pub(crate) struct Latent<'a> {
    pub(crate) shape: LatentShape,
    pub(crate) scale: f32,
    pub(crate) step: &'a HostStep,
    pub(crate) tables: &'a GroupTables,
    pub(crate) kv: &'a KvPool,
    pub(crate) layer: usize,
    /// The step's rows that this is about: the first, and how many.
    pub(crate) rows: (usize, usize),
    /// Their queries in the space of compressed rows, `[head][row][rank]`.
    pub(crate) absorbed: &'a [f32],
    /// The step's queries, of which the rotated part is read.
    pub(crate) query: &'a [f32],
    /// `[head][row][rank]`.
    pub(crate) out: Pieces<'a, f32>,
    pub(crate) tasks: Vec<LatentTask>,
}

/// Which pairs a task computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentTask {
    sequence: usize,
    /// The sequence's first row that this operation is about.
    row: usize,
    /// Pairs are numbered row by row from there, heads within.
    first: usize,
    pairs: usize,
}

impl LatentTask {
    /// The tasks of some rows of a step: they cover every pair once.
    pub(crate) fn of_rows(step: &HostStep, heads: usize, rows: (usize, usize)) -> Vec<Self> {
        let mut tasks = Vec::new();
        for (sequence, own) in step.sequences.iter().enumerate() {
            let row = own.row.max(rows.0);
            let end = (own.row + own.count).min(rows.0 + rows.1);
            let all = end.saturating_sub(row) * heads;
            tasks.extend((0..all).step_by(LANES).map(|first| Self {
                sequence,
                row,
                first,
                pairs: LANES.min(all - first),
            }));
        }
        tasks
    }
}

impl Latent<'_> {
    /// Multiply-adds of all tasks, at most.
    pub(crate) fn operations(&self) -> usize {
        let seen = |task: &LatentTask| {
            let own = &self.step.sequences[task.sequence];
            (own.computed + own.count) * task.pairs
        };
        self.tasks.iter().map(seen).sum::<usize>() * (self.shape.width() + self.shape.rank)
    }
}

/// Computes one task.
///
/// # Safety
/// The machine must have what `S` needs; each task is run once.
#[inline(always)]
pub(crate) unsafe fn task<S: Simd>(job: &Latent<'_>, task: usize) {
    let task = job.tasks[task];
    // SAFETY: as this function's.
    unsafe {
        match &job.kv.data {
            KvData::Bf16(data) => attend::<S, StoredBf16>(job, task, data),
            KvData::F16(data) => attend::<S, StoredF16>(job, task, data),
            KvData::F32(data) => attend::<S, StoredF32>(job, task, data),
            // No latent pool is made of them.
            KvData::Int8(_) => {}
        }
    }
}

/// What a task carries from chunk to chunk.
struct Pairs {
    /// `[element of a row][pair]`.
    queries: Vec<f32>,
    /// Each pair's first visible position, always 0, and one past its last.
    ends: [usize; LANES],
    peaks: [f32; LANES],
    sums: [f32; LANES],
    /// `[pair][elements]`, weighted values so far.
    values: Vec<f32>,
    /// A chunk's rows, widened: `[position][stride]`.
    rows: Vec<f32>,
    stride: usize,
}

#[inline(always)]
unsafe fn attend<S: Simd, E: Stored>(job: &Latent<'_>, task: LatentTask, data: &[E::Raw]) {
    let shape = job.shape;
    let place = |pair: usize| {
        let number = task.first + pair;
        (task.row + number / shape.heads, number % shape.heads)
    };
    let stride = job.kv.layout.value_stride;
    let mut pairs = Pairs {
        queries: vec![0.0; shape.width() * LANES],
        ends: [0; LANES],
        peaks: [0.0; LANES],
        sums: [0.0; LANES],
        values: vec![0.0; LANES * stride],
        rows: vec![0.0; CHUNK * stride],
        stride,
    };
    let absorbed = |row: usize, head: usize| (head * job.rows.1 + row - job.rows.0) * shape.rank;
    for pair in 0..task.pairs {
        let (row, head) = place(pair);
        let first = &job.absorbed[absorbed(row, head)..][..shape.rank];
        let rotated = (row * shape.heads + head) * shape.query_dim() + shape.nope_dim;
        let second = &job.query[rotated..][..shape.rope_dim];
        let column = pairs.queries[pair..].iter_mut().step_by(LANES);
        column.zip(first.iter().chain(second)).for_each(|(to, from)| *to = *from);
        pairs.ends[pair] = job.step.positions[row] as usize + 1;
    }
    let end = pairs.ends.into_iter().max().unwrap_or(0);
    for start in (0..end).step_by(CHUNK) {
        let count = CHUNK.min(end - start);
        // SAFETY: as this function's; positions below `end` are visible to some pair, so their
        // blocks are in the table.
        unsafe {
            widen::<S, E>(job, (task.sequence, start, count), data, &mut pairs);
            chunk::<S>(&mut pairs, (start, count), shape, job.scale);
        }
    }
    for pair in 0..task.pairs {
        let (row, head) = place(pair);
        // SAFETY: pairs of tasks are disjoint.
        let out = unsafe { job.out.piece(absorbed(row, head), shape.rank) };
        let scale = 1.0 / pairs.sums[pair];
        for (out, value) in out.iter_mut().zip(&pairs.values[pair * stride..]) {
            *out = value * scale;
        }
    }
}

/// Reads the rows at `start..start + count`.
#[inline(always)]
unsafe fn widen<S: Simd, E: Stored>(
    job: &Latent<'_>,
    (sequence, start, count): (usize, usize, usize),
    data: &[E::Raw],
    pairs: &mut Pairs,
) {
    let layout = &job.kv.layout;
    let (table, size) = (job.tables.of_sequence(sequence), job.kv.spec().block_size);
    for (at, to) in pairs.rows.chunks_exact_mut(pairs.stride).take(count).enumerate() {
        let block = table[(start + at) / size] as usize;
        assert!(block < layout.blocks);
        let first = layout.head(job.layer, block, 0) + (start + at) % size * pairs.stride;
        let from = &data[first..first + pairs.stride];
        for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
            // SAFETY: both have 16 elements; strides are multiples of that.
            unsafe { S::store(to.as_mut_ptr(), E::load::<S>(from.as_ptr())) };
        }
    }
}

/// Takes a chunk of `count` widened rows from `start` into all pairs.
#[inline(always)]
unsafe fn chunk<S: Simd>(
    pairs: &mut Pairs,
    (start, count): (usize, usize),
    shape: LatentShape,
    scale: f32,
) {
    let mut scores = [[0.0; LANES]; CHUNK];
    // SAFETY: the machine has what `S` needs; every pointer is into an array or a slice of enough
    // elements, as said beside each.
    unsafe {
        for first in (0..count).step_by(POSITIONS) {
            // Places behind the last are computed too and never read: rows has a whole chunk.
            let mut sums = [S::splat(0.0); POSITIONS];
            let row = pairs.rows[first * pairs.stride..][..POSITIONS * pairs.stride].as_ptr();
            for (at, query) in pairs.queries.chunks_exact(LANES).enumerate() {
                let query = S::load(query.as_ptr());
                for (position, sum) in sums.iter_mut().enumerate() {
                    // Below `width`, which is at most `stride`.
                    let element = *row.add(position * pairs.stride + at);
                    *sum = S::fma(query, S::splat(element), *sum);
                }
            }
            for (scores, sum) in scores[first..].iter_mut().zip(sums) {
                S::store(scores.as_mut_ptr(), S::mul(sum, S::splat(scale)));
            }
        }
        let seen = pairs.ends.map(|end| end.clamp(start, start + count) - start);
        hide(&mut scores, seen, count, f32::NEG_INFINITY);
        let mut peaks = S::splat(f32::NEG_INFINITY);
        for score in &scores[..count] {
            peaks = S::max(peaks, S::load(score.as_ptr()));
        }
        for score in &mut scores[..count] {
            let weight = S::exp(S::sub(S::load(score.as_ptr()), peaks));
            S::store(score.as_mut_ptr(), weight);
        }
        hide(&mut scores, seen, count, 0.0);
        let mut sums = [S::splat(0.0); LANES];
        for (at, weight) in scores[..count].iter().enumerate() {
            sums[at % LANES] = S::add(sums[at % LANES], S::load(weight.as_ptr()));
        }
        let (peaks, sums) = (S::lanes(peaks), sums.map(|sum| S::lanes(sum)));
        let mut factors = [(1.0, 0.0); LANES];
        for pair in (0..LANES).filter(|pair| seen[*pair] > 0) {
            let sum = tree(std::array::from_fn(|at| sums[at][pair]));
            factors[pair] = merge(pairs, pair, peaks[pair], sum);
        }
        for first in (0..LANES).step_by(PAIRS) {
            for at in (0..shape.rank).step_by(LANES) {
                add_values::<S>(pairs, &scores[..count], (first, at), (&seen, &factors));
            }
        }
    }
}

/// Sets the scores of what a pair does not see.
#[inline(always)]
fn hide(scores: &mut [[f32; LANES]; CHUNK], seen: [usize; LANES], count: usize, value: f32) {
    for (pair, seen) in seen.into_iter().enumerate() {
        for scores in &mut scores[seen.min(count)..count] {
            scores[pair] = value;
        }
    }
}

/// Takes a chunk's peak and sum into a pair's; gives the factors for the values so far and for the
/// chunk's.
#[inline(always)]
fn merge(pairs: &mut Pairs, pair: usize, peak: f32, sum: f32) -> (f32, f32) {
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

/// Sums weighted rows over a chunk, then merges them into the pairs' own: 16 elements from `at` of
/// the pairs from `first`.
#[inline(always)]
unsafe fn add_values<S: Simd>(
    pairs: &mut Pairs,
    weights: &[[f32; LANES]],
    (first, at): (usize, usize),
    (seen, factors): (&[usize; LANES], &[(f32, f32); LANES]),
) {
    // SAFETY: `at` is a multiple of 16 below `rank`, so 16 elements are within a stride.
    unsafe {
        let mut sums = [S::splat(0.0); PAIRS];
        for (weights, row) in weights.iter().zip(pairs.rows.chunks_exact(pairs.stride)) {
            let value = S::load(row.as_ptr().add(at));
            for (sum, weight) in sums.iter_mut().zip(&weights[first..]) {
                *sum = S::fma(S::splat(*weight), value, *sum);
            }
        }
        for (pair, sum) in (first..).zip(sums) {
            // A pair that sees nothing here keeps what it has, to the bit.
            if seen[pair] == 0 {
                continue;
            }
            let (old, new) = (S::splat(factors[pair].0), S::splat(factors[pair].1));
            let kept = pairs.values[pair * pairs.stride + at..][..LANES].as_mut_ptr();
            S::store(kept, S::add(S::mul(S::load(kept), old), S::mul(sum, new)));
        }
    }
}
