//! Attention over paged KV, one task for up to 32 (row, query head) pairs of one KV head.
//!
//! Positions are taken in chunks of 64 and chunks in spans of 512, at fixed absolute places. Within
//! a chunk, scores of 16 positions fill a vector (keys are stored for that), softmax is taken on
//! its own, and values are added position by position; chunks are merged in order, and so are
//! spans. A row's result depends on what it sees and on nothing else: not on the rows beside it,
//! the blocks' size, how much was computed before, or which thread took which span
//! ([`tasks`](super::tasks)).
//!
//! Brain floats are multiplied by pairs: in that order by everybody, and by the instruction for it
//! where there is one and a task is large enough ([`attention_pairs`]).
//!
//! Blocks lie anywhere, so that the processor cannot guess what is read next: while a chunk's
//! scores are computed, the next chunk's keys and values are asked for.

use super::{
    attention_blocks::{block_start, id, next_tile, value_rows, value_scales},
    attention_pairs::{self, Words},
    pool::Pieces,
    tasks::{AttentionTask, Part},
    vector::{LANES, Simd, Stored, StoredBf16, StoredF16, StoredF32, StoredInt8},
};
use crate::{
    cpu::{
        math::{self, tree},
        pairs::{BLOCK, rounded},
    },
    kv::pool::{KvData, KvPool, TILE},
    shape::AttentionSpec,
    step::{GroupTables, HostStep},
};

/// Positions that one softmax covers before results are merged.
pub(crate) const CHUNK: usize = 64;
/// Positions whose chunks are merged on their own: the least that a thread takes of a long
/// sequence.
pub(crate) const SPAN: usize = 512;
/// Pairs of one task: what keeps a chunk's keys and values in the first-level cache useful.
pub(crate) const PAIRS: usize = 32;

/// One attention operation, to be computed task by task.
///
/// Whoever makes one has checked that the spec's heads are the pool's, that its mask is within the
/// group's, that `qkv` and `out` have the step's rows, and that the pool is at least as large as
/// the one that the step was prepared with.
pub(crate) struct Attention<'a> {
    pub(crate) spec: AttentionSpec,
    pub(crate) step: &'a HostStep,
    pub(crate) tables: &'a GroupTables,
    pub(crate) kv: &'a KvPool,
    pub(crate) layer: usize,
    /// Fused rows; the query heads come first.
    pub(crate) qkv: &'a [f32],
    pub(crate) qkv_columns: usize,
    /// `[rows, query heads * head_dim]`.
    pub(crate) out: Pieces<'a, f32>,
    pub(crate) tasks: Vec<AttentionTask>,
    /// Where tasks of one span each leave what they have.
    pub(crate) parts: Pieces<'a, Part>,
}

impl Attention<'_> {
    /// Multiply-adds of all tasks, at most.
    pub(crate) fn operations(&self) -> usize {
        let seen = self.step.sequences.iter().map(|rows| rows.count * (rows.computed + rows.count));
        2 * seen.sum::<usize>() * self.spec.heads.query_columns()
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
            KvData::Int8(data) => attend::<S, StoredInt8>(job, task, data),
        }
    }
}

/// A task under way.
pub(super) struct Pairs<'a, E: Stored> {
    pub(super) job: &'a Attention<'a>,
    pub(super) data: &'a [E::Raw],
    pub(super) table: &'a [u32],
    pub(super) kv_head: usize,
    /// One past the last position that is read.
    pub(super) end: usize,
    /// Each pair's query.
    queries: [*const f32; PAIRS],
    /// Each pair's first visible position and one past its last.
    spans: [(usize, usize); PAIRS],
    /// What the chunks of the span so far have come to.
    sums: Part,
    /// Where the instruction set takes pairs of brain floats and it pays.
    words: Option<Words>,
}

#[inline(always)]
unsafe fn attend<S: Simd, E: Stored>(job: &Attention<'_>, task: AttentionTask, data: &[E::Raw]) {
    let layout = &job.kv.layout;
    let rows = &job.step.sequences[task.sequence];
    let dim = layout.head_dim;
    let mut pairs = Pairs::<E> {
        job,
        data,
        table: job.tables.of_sequence(task.sequence),
        kv_head: task.kv_head,
        end: 0,
        queries: [std::ptr::null(); PAIRS],
        spans: [(0, 0); PAIRS],
        sums: Part::new(task.pairs, layout.value_stride),
        words: None,
    };
    let mut narrow = Vec::new();
    for pair in 0..task.pairs {
        let (row, head) = task.place(job, pair);
        let start = row * job.qkv_columns + head * dim;
        let query = &job.qkv[start..start + dim];
        pairs.queries[pair] = query.as_ptr();
        if E::IS_PAIRED {
            narrow.extend(query.iter().map(|value| rounded(*value)));
        }
        let position = job.step.positions[row];
        let (from, to) = job.spec.mask.visible(position, (rows.computed + rows.count) as u32);
        pairs.spans[pair] = (from as usize, to as usize);
    }
    if E::IS_PAIRED {
        for (query, narrow) in pairs.queries.iter_mut().zip(narrow.chunks_exact(dim)) {
            *query = narrow.as_ptr();
        }
        pairs.words = (S::HAS_PAIRS && task.pairs > S::QUERIES)
            .then(|| Words::new(&narrow, dim, layout.value_stride));
    }
    let spans = &pairs.spans[..task.pairs];
    let first = spans.iter().map(|span| span.0).min().unwrap_or(0);
    pairs.end = spans.iter().map(|span| span.1).max().unwrap_or(0);
    let mut before: Option<Part> = None;
    let spans = match task.alone {
        Some((span, _)) => span..span + 1,
        None => first / SPAN..pairs.end.div_ceil(SPAN),
    };
    for span in spans {
        if task.alone.is_none() && span * SPAN > first {
            let sums = before.get_or_insert_with(|| Part::new(task.pairs, layout.value_stride));
            sums.take(&mut pairs.sums);
        }
        // SAFETY: as this function's.
        unsafe { span_of::<S, E>(&mut pairs, (first, span), task.pairs) };
    }
    if let Some((_, part)) = task.alone {
        // SAFETY: every part is one task's.
        unsafe { job.parts.piece(part, 1)[0] = pairs.sums };
        return;
    }
    let mut sums = pairs.sums;
    if let Some(mut before) = before {
        before.take(&mut sums);
        sums = before;
    }
    // SAFETY: pairs of tasks are disjoint.
    unsafe { sums.finish(job, &task) };
}

/// The chunks of one span, those from position `first` on.
#[inline(always)]
unsafe fn span_of<S: Simd, E: Stored>(
    pairs: &mut Pairs<'_, E>,
    (first, span): (usize, usize),
    count: usize,
) {
    let from = first.max(span * SPAN) / CHUNK;
    let to = pairs.end.min((span + 1) * SPAN).div_ceil(CHUNK);
    for chunk in from..to {
        // It comes back when its chunk is done.
        let mut words = pairs.words.take();
        if let Some(words) = &mut words {
            let start = chunk * CHUNK;
            let seen = (first.max(start) - start, pairs.end.min(start + CHUNK) - start);
            // SAFETY: as the caller's; these positions are visible to some pair.
            unsafe { attention_pairs::take::<S, E>(pairs, words, start, seen) };
        }
        for from in (0..count).step_by(S::QUERIES) {
            let some = (from, S::QUERIES.min(count - from));
            // SAFETY: as the caller's; the pairs exist.
            unsafe { chunk_of::<S, E>(pairs, words.as_ref(), some, chunk * CHUNK) };
        }
        pairs.words = words;
    }
}

/// Pairs that are computed at once, at most.
pub(super) const QUERIES: usize = 8;

/// Scores, or weights, of a chunk; a tile that starts inside it may write 15 beyond.
pub(super) type Scores = [[f32; CHUNK + LANES]; QUERIES];

/// Calls with `R` the count, which is at most the instruction set's.
macro_rules! by_count {
    ($simd:ident, $count:expr, $r:ident => $call:expr) => {
        by_count!(@ $simd, $count, $r, $call, [1 2 3], 4, [1 2 3 4 5 6 7], 8)
    };
    (@ $simd:ident, $count:expr, $r:ident, $call:expr,
        [$($few:literal)*], $narrow:literal, [$($some:literal)*], $wide:literal) => {
        if $simd::IS_WIDE {
            match $count {
                $($some => { const $r: usize = $some; $call })*
                _ => { const $r: usize = $wide; $call }
            }
        } else {
            match $count {
                $($few => { const $r: usize = $few; $call })*
                _ => { const $r: usize = $narrow; $call }
            }
        }
    };
}

/// One chunk for `count` pairs from `first` on.
#[inline(always)]
unsafe fn chunk_of<S: Simd, E: Stored>(
    pairs: &mut Pairs<'_, E>,
    words: Option<&Words>,
    (first, count): (usize, usize),
    start: usize,
) {
    let mut seen = [(0, 0); QUERIES];
    for (seen, (from, to)) in seen.iter_mut().zip(&pairs.spans[first..first + count]) {
        *seen = (
            (*from).clamp(start, start + CHUNK) - start,
            (*to).clamp(start, start + CHUNK) - start,
        );
    }
    let visible = seen.iter().filter(|span| span.0 < span.1);
    let Some(from) = visible.clone().map(|span| span.0).min() else {
        return;
    };
    let to = visible.map(|span| span.1).max().unwrap_or(from);
    // SAFETY: as the caller's; `from..to` of the chunk is visible to some row, so its blocks are in
    // the table.
    unsafe {
        let mut scores: Scores = [[0.0; CHUNK + LANES]; QUERIES];
        let range = (start + from, start + to);
        if let Some(words) = words {
            attention_pairs::score::<S>(words, first, (from, to), &mut scores);
        } else {
            by_count!(S, count, R => score::<S, E, R>(pairs, first, range, &mut scores));
        }
        let (mut peaks, mut sums) = ([0.0; LANES], [0.0; LANES]);
        // Not unrolled: this is long, and little of the time.
        let results = peaks.iter_mut().zip(&mut sums);
        for ((scores, seen), (peak, sum)) in scores[..count].iter_mut().zip(&seen).zip(results) {
            if seen.0 < seen.1 {
                (*peak, *sum) = soften::<S>(scores, *seen, &pairs.job.spec);
            } else {
                scores.fill(0.0);
            }
        }
        let factors = merge::<S, E>(pairs, (first, count), &seen, (&peaks, &sums));
        let stride = pairs.job.kv.layout.value_stride;
        let mut span = Weighted { first, count, from, to, dim: 0, seen: &seen, factors: &factors };
        if let Some(words) = words {
            let weights = attention_pairs::narrow_weights::<S>(&scores, count);
            while span.dim < stride {
                if span.dim + 2 * LANES <= stride {
                    attention_pairs::add_values::<S, E, 2>(pairs, words, &weights, &span);
                } else {
                    attention_pairs::add_values::<S, E, 1>(pairs, words, &weights, &span);
                }
                span.dim += 2 * LANES;
            }
            return;
        }
        let rows = value_rows(pairs, start, (from, to));
        if E::IS_PAIRED {
            for weights in &mut scores[..count] {
                weights.iter_mut().for_each(|weight| *weight = rounded(*weight));
            }
        }
        if E::IS_SCALED {
            let scales = value_scales(pairs, start, (from, to));
            for weights in &mut scores[..count] {
                for at in (0..CHUNK).step_by(LANES) {
                    let weight = S::load(weights.as_ptr().add(at));
                    let scale = S::load(scales.as_ptr().add(at));
                    S::store(weights.as_mut_ptr().add(at), S::mul(weight, scale));
                }
            }
        }
        if S::IS_WIDE {
            while span.dim + 2 * LANES <= stride {
                by_count!(S, count, R => add_values::<S, E, R, 2>(pairs, &scores, &rows, &span));
                span.dim += 2 * LANES;
            }
        }
        while span.dim < stride {
            by_count!(S, count, R => add_values::<S, E, R, 1>(pairs, &scores, &rows, &span));
            span.dim += LANES;
        }
    }
}

/// Dot products with the keys at positions `from..to`, and with whatever shares their tiles.
#[inline(always)]
unsafe fn score<S: Simd, E: Stored, const R: usize>(
    pairs: &Pairs<'_, E>,
    first: usize,
    (from, to): (usize, usize),
    scores: &mut Scores,
) {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let chunk = from / CHUNK * CHUNK;
    let queries: [*const f32; R] = std::array::from_fn(|r| pairs.queries[first + r]);
    let mut position = from;
    while position < to {
        let (block, offset) = (position / size, position % size / TILE * TILE);
        let tile = block_start(pairs, block) + offset * layout.head_dim;
        let (next_keys, next_values) = next_tile(pairs, first, position);
        // SAFETY: the tile has `head_dim * 16` elements (sliced, so checked), each query
        // `head_dim`; block sizes are powers of two, so a tile starts inside the chunk.
        unsafe {
            let keys = pairs.data[tile..tile + layout.head_dim * TILE].as_ptr();
            let mut sums = [S::splat(0.0); R];
            let (chains, length) = chains_of::<E>(layout.head_dim);
            for block in (0..layout.head_dim).step_by(length) {
                let mut even = sums;
                for chain in 0..chains {
                    let mut own = [S::splat(0.0); R];
                    for dim in (block + chain..layout.head_dim.min(block + length)).step_by(chains)
                    {
                        let key = E::load::<S>(keys.add(dim * TILE));
                        S::prefetch(next_keys.wrapping_add(dim * TILE));
                        S::prefetch(next_values.wrapping_add(dim * TILE));
                        for (sum, query) in own.iter_mut().zip(&queries) {
                            *sum = S::fma(S::splat(*query.add(dim)), key, *sum);
                        }
                    }
                    if chain + 1 < chains {
                        even = own;
                    } else if E::IS_PAIRED {
                        for ((sum, even), odd) in sums.iter_mut().zip(&even).zip(&own) {
                            *sum = S::add(*sum, S::add(*even, *odd));
                        }
                    } else {
                        sums = own;
                    }
                }
            }
            if E::IS_SCALED {
                let scales =
                    pairs.job.kv.layout.scales(pairs.job.layer, id(pairs, block), pairs.kv_head);
                let scales = &pairs.job.kv.scales[scales + offset..][..LANES];
                for sum in &mut sums {
                    *sum = S::mul(*sum, S::load(scales.as_ptr()));
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

/// How many chains there are in a block of so many elements, and how long a block is: pairs of
/// brain floats have their own order, all else is one chain.
#[inline(always)]
const fn chains_of<E: Stored>(all: usize) -> (usize, usize) {
    if E::IS_PAIRED { (2, BLOCK) } else { (1, all) }
}

/// Turns the scores at `from..to` of a chunk into weights, all others into zeros; gives the
/// greatest scaled score and the sum of the weights.
#[inline(always)]
unsafe fn soften<S: Simd>(
    scores: &mut [f32; CHUNK + LANES],
    (from, to): (usize, usize),
    spec: &AttentionSpec,
) -> (f32, f32) {
    let whole = (from, to) == (0, CHUNK);
    // SAFETY: all loads and stores are within the chunk.
    unsafe {
        let mut own = [S::splat(0.0); CHUNK / LANES];
        for (at, own) in own.iter_mut().enumerate() {
            let score = scores.as_mut_ptr().add(at * LANES);
            *own = S::mul(S::load(score), S::splat(spec.scale));
            S::store(score, *own);
        }
        if let Some(cap) = spec.soft_cap {
            for score in &mut scores[from..to] {
                *score = math::soft_cap(*score, cap);
            }
        }
        if !whole {
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
        }
        if !whole || spec.soft_cap.is_some() {
            for (at, own) in own.iter_mut().enumerate() {
                *own = S::load(scores.as_ptr().add(at * LANES));
            }
        }
        let peaks = own[1..].iter().fold(own[0], |peaks, own| S::max(peaks, *own));
        let peak = greatest(S::lanes(peaks));
        for (at, own) in own.iter_mut().enumerate() {
            *own = S::exp(S::sub(*own, S::splat(peak)));
            S::store(scores.as_mut_ptr().add(at * LANES), *own);
        }
        if !whole {
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
            for (at, own) in own.iter_mut().enumerate() {
                *own = S::load(scores.as_ptr().add(at * LANES));
            }
        }
        let sums = own[1..].iter().fold(own[0], |sums, own| S::add(sums, *own));
        (peak, tree(S::lanes(sums)))
    }
}

/// The greatest lane, whatever the order: equal numbers differ in nothing that follows.
#[inline(always)]
fn greatest(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = math::max(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

/// Takes a chunk's peaks and sums into the pairs'; gives the factors for each pair's values so far
/// and for the chunk's.
#[inline(always)]
unsafe fn merge<S: Simd, E: Stored>(
    pairs: &mut Pairs<'_, E>,
    (first, count): (usize, usize),
    seen: &[(usize, usize); QUERIES],
    (peaks, sums): (&[f32; LANES], &[f32; LANES]),
) -> [(f32, f32); QUERIES] {
    let mut before = [0.0; LANES];
    before[..count].copy_from_slice(&pairs.sums.peaks[first..first + count]);
    // SAFETY: all arrays have sixteen elements.
    let (highest, old, new) = unsafe {
        let (before, peaks) = (S::load(before.as_ptr()), S::load(peaks.as_ptr()));
        let highest = S::max(before, peaks);
        let old = S::lanes(S::exp(S::sub(before, highest)));
        (S::lanes(highest), old, S::lanes(S::exp(S::sub(peaks, highest))))
    };
    let mut factors = [(1.0, 0.0); QUERIES];
    for r in 0..count {
        let (peak, sum) = (&mut pairs.sums.peaks[first + r], &mut pairs.sums.sums[first + r]);
        if seen[r].0 >= seen[r].1 {
            continue;
        }
        if *sum == 0.0 {
            (*peak, *sum) = (peaks[r], sums[r]);
            factors[r] = (0.0, 1.0);
        } else {
            *peak = highest[r];
            *sum = *sum * old[r] + sums[r] * new[r];
            factors[r] = (old[r], new[r]);
        }
    }
    factors
}

/// What [`add_values`] adds.
pub(super) struct Weighted<'a> {
    first: usize,
    /// Pairs from there.
    pub(super) count: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    /// First element of the value rows.
    pub(super) dim: usize,
    seen: &'a [(usize, usize)],
    factors: &'a [(f32, f32)],
}

/// Sums weighted values over the chunk, then merges them into the pairs' own: `16 * D` elements.
#[inline(always)]
unsafe fn add_values<S: Simd, E: Stored, const R: usize, const D: usize>(
    pairs: &mut Pairs<'_, E>,
    weights: &Scores,
    rows: &[*const E::Raw; CHUNK],
    span: &Weighted<'_>,
) {
    // SAFETY: rows at `from..to` are set and have `stride` elements; `dim + 16 * D <= stride`.
    unsafe {
        let mut sums = [[S::splat(0.0); D]; R];
        let (chains, length) = chains_of::<E>(CHUNK);
        for block in (0..CHUNK).step_by(length) {
            let mut even = sums;
            let (from, to) = (span.from.max(block), span.to.min(block + length));
            for chain in 0..chains {
                let mut own = [[S::splat(0.0); D]; R];
                // Blocks begin with an even position.
                let first = if E::IS_PAIRED { from + (from + chain) % 2 } else { from };
                for at in (first..to).step_by(chains) {
                    let row = rows.get_unchecked(at).add(span.dim);
                    let mut values = [S::splat(0.0); D];
                    for (d, value) in values.iter_mut().enumerate() {
                        *value = E::load::<S>(row.add(d * LANES));
                    }
                    for (sums, weights) in own.iter_mut().zip(weights) {
                        let weight = S::splat(*weights.get_unchecked(at));
                        for (sum, value) in sums.iter_mut().zip(&values) {
                            *sum = S::fma(weight, *value, *sum);
                        }
                    }
                }
                if chain + 1 < chains {
                    even = own;
                    continue;
                }
                for ((sums, even), odd) in sums.iter_mut().zip(&even).zip(&own) {
                    for ((sum, even), odd) in sums.iter_mut().zip(even).zip(odd) {
                        let both = if E::IS_PAIRED { S::add(*even, *odd) } else { *odd };
                        *sum = if E::IS_PAIRED { S::add(*sum, both) } else { both };
                    }
                }
            }
        }
        merge_values::<S, E, D>(pairs, &sums, span);
    }
}

/// Merges what a chunk's values have come to into the pairs' own.
///
/// # Safety
/// As [`add_values`].
#[inline(always)]
pub(super) unsafe fn merge_values<S: Simd, E: Stored, const D: usize>(
    pairs: &mut Pairs<'_, E>,
    sums: &[[S::V; D]],
    span: &Weighted<'_>,
) {
    let stride = pairs.job.kv.layout.value_stride;
    // SAFETY: `dim + 16 * D <= stride`.
    unsafe {
        for (r, sums) in sums.iter().enumerate() {
            // A pair that sees nothing here keeps what it has, to the bit.
            if span.seen[r].0 >= span.seen[r].1 {
                continue;
            }
            let (old, new) = (S::splat(span.factors[r].0), S::splat(span.factors[r].1));
            let start = (span.first + r) * stride + span.dim;
            let kept = pairs.sums.values[start..start + D * LANES].as_mut_ptr();
            for (d, sum) in sums.iter().enumerate() {
                let kept = kept.add(d * LANES);
                S::store(kept, S::add(S::mul(S::load(kept), old), S::mul(*sum, new)));
            }
        }
    }
}
