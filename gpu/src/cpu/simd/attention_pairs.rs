//! What attention over brain floats does where an instruction multiplies pairs of them
//! (`VDPBF16PS`): a chunk's keys and values become words of pairs once, which all rows and heads of
//! a task then use. For few of those, a decoding step's, that would cost more than it saves; they
//! widen what they read instead, in the same order ([`crate::cpu`]).

use super::{
    attention::{CHUNK, Pairs, QUERIES, Scores, Weighted, merge_values},
    attention_blocks::{block_start, value_rows},
    vector::{LANES, Simd, Stored},
};
use crate::{
    cpu::pairs::{BLOCK, PAIRS, PairOrder, narrow, words},
    kv::pool::TILE,
};

/// Words of a task's queries, and of the chunk that it is at.
#[derive(Default)]
pub(super) struct Words {
    /// `[pair][word]`.
    queries: Vec<u32>,
    /// `[tile][word][16 positions]`.
    keys: Vec<u32>,
    /// `[block of 32 positions][word][element]`.
    values: Vec<u32>,
    /// For positions that nobody sees.
    zeros: Vec<u16>,
}

/// Weights of a chunk, by query.
type Weights = [[u32; CHUNK / BLOCK * PAIRS]; QUERIES];

impl Words {
    /// Room for a task's chunks; `queries` are its rows, each of `dim` elements.
    pub(super) fn new(queries: &[f32], dim: usize, stride: usize) -> Self {
        // So many as are computed at once, the last of them with zeros.
        let count = (queries.len() / dim).next_multiple_of(QUERIES);
        let mut out = vec![0; count * words(dim)];
        for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(words(dim))) {
            let input = |block: usize, at: usize| {
                query.get(block * BLOCK + at).map_or(0, |value| u32::from(narrow(*value)))
            };
            for (word, out) in out.iter_mut().enumerate() {
                let (low, high) = PairOrder::Chained.inputs(word % PAIRS);
                *out = input(word / PAIRS, low) | input(word / PAIRS, high) << 16;
            }
        }
        Self {
            queries: out,
            keys: vec![0; CHUNK * words(dim)],
            values: vec![0; CHUNK / 2 * stride],
            zeros: vec![0; stride],
        }
    }
}

/// Takes the keys and values at `from..to` of the chunk at `start`, which is what any pair sees.
///
/// # Safety
/// The machine must have what `S` needs, the positions are in the table, and `E` is brain floats.
#[inline(always)]
pub(super) unsafe fn take<S: Simd, E: Stored>(
    pairs: &Pairs<'_, E>,
    chunk: &mut Words,
    start: usize,
    (from, to): (usize, usize),
) {
    let Words { keys, values, zeros, .. } = chunk;
    let layout = &pairs.job.kv.layout;
    let (dim, stride) = (layout.head_dim, layout.value_stride);
    let size = pairs.job.kv.spec().block_size;
    let mut at = from;
    while at < to {
        let (block, offset) = ((start + at) / size, (start + at) % size / TILE * TILE);
        let first = block_start(pairs, block) + offset * dim;
        let tile = &pairs.data[first..first + dim * TILE];
        let place = block * size + offset - start;
        let whole = size >= TILE;
        let out = &mut keys[place / TILE * words(dim) * TILE..][..words(dim) * TILE];
        for (word, out) in out.chunks_exact_mut(TILE).enumerate() {
            let (low, high) = PairOrder::Chained.inputs(word % PAIRS);
            let (low, high) = (word / PAIRS * BLOCK + low, word / PAIRS * BLOCK + high);
            if high < dim && low < dim && whole {
                // SAFETY: `E` is sixteen bits by the caller's promise; both rows are in the tile.
                unsafe {
                    let row = |dim: usize| tile[dim * TILE..].as_ptr().cast();
                    S::store_pairs(out.as_mut_ptr(), row(high), row(low));
                }
                continue;
            }
            // Few blocks are this small, and few heads end inside a pair.
            let count = if whole { TILE } else { size };
            for (position, out) in out[place % TILE..][..count].iter_mut().enumerate() {
                let bits = |dim: usize| match tile.get(dim * TILE + position) {
                    // SAFETY: sixteen bits, as above.
                    Some(raw) => u32::from(unsafe { *std::ptr::from_ref(raw).cast::<u16>() }),
                    None => 0,
                };
                *out = bits(low) | bits(high) << 16;
            }
        }
        at = (block * size + offset + TILE).min((block + 1) * size) - start;
    }
    let rows = value_rows(pairs, start, (from, to));
    let row = |position: usize| match rows[position] {
        row if row.is_null() => zeros.as_ptr(),
        row => row.cast::<u16>(),
    };
    for (word, out) in values.chunks_exact_mut(stride).enumerate() {
        let (low, high) = PairOrder::Chained.inputs(word % PAIRS);
        let block = word / PAIRS * BLOCK;
        let (low, high) = (row(block + low), row(block + high));
        for (at, out) in out.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: rows have `stride` elements, a multiple of sixteen, of sixteen bits.
            unsafe { S::store_pairs(out.as_mut_ptr(), high.add(at * LANES), low.add(at * LANES)) };
        }
    }
}

/// Scores of [`QUERIES`] queries from the `first` on with the positions `from..to` of the chunk,
/// and with whatever shares their tiles.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(super) unsafe fn score<S: Simd>(
    chunk: &Words,
    first: usize,
    (from, to): (usize, usize),
    scores: &mut Scores,
) {
    let count = chunk.keys.len() / CHUNK;
    let queries = chunk.queries[first * count..][..QUERIES * count].as_ptr();
    for tile in from / TILE..to.div_ceil(TILE) {
        let keys = chunk.keys[tile * count * TILE..][..count * TILE].as_ptr();
        // SAFETY: words as sliced; a tile is within the chunk.
        unsafe {
            let zero = S::splat(0.0);
            let mut totals = [zero; QUERIES];
            for block in (0..count).step_by(PAIRS) {
                let mut chains = [[zero; QUERIES]; 2];
                for step in 0..PAIRS / 2 {
                    for (chain, sums) in chains.iter_mut().enumerate() {
                        let word = block + chain * (PAIRS / 2) + step;
                        let key = S::load(keys.add(word * TILE).cast());
                        for (r, sum) in sums.iter_mut().enumerate() {
                            *sum = S::dot_pairs(*sum, queries.add(r * count + word), key);
                        }
                    }
                }
                for (r, total) in totals.iter_mut().enumerate() {
                    *total = S::add(*total, S::add(chains[0][r], chains[1][r]));
                }
            }
            for (scores, total) in scores.iter_mut().zip(totals) {
                S::store(scores[tile * TILE..][..LANES].as_mut_ptr(), total);
            }
        }
    }
}

/// Weights of `count` queries, rounded, as words.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(super) unsafe fn narrow_weights<S: Simd>(scores: &Scores, count: usize) -> Weights {
    let mut weights = [[0; CHUNK / BLOCK * PAIRS]; QUERIES];
    for (scores, weights) in scores[..count].iter().zip(&mut weights) {
        for (block, out) in weights.chunks_exact_mut(PAIRS).enumerate() {
            // SAFETY: a chunk is whole blocks of scores.
            unsafe { S::narrow_block(scores[block * BLOCK..][..BLOCK].as_ptr(), out.as_mut_ptr()) };
        }
    }
    weights
}

/// Sums weighted values over the chunk, then merges them into the pairs' own: `16 * D` elements.
///
/// # Safety
/// The machine must have what `S` needs; the elements exist.
#[inline(always)]
pub(super) unsafe fn add_values<S: Simd, E: Stored, const D: usize>(
    pairs: &mut Pairs<'_, E>,
    chunk: &Words,
    weights: &Weights,
    span: &Weighted<'_>,
) {
    let stride = pairs.job.kv.layout.value_stride;
    assert!(span.dim + D * LANES <= stride && chunk.values.len() == CHUNK / 2 * stride);
    // SAFETY: by the assertion there are so many elements in each of the chunk's rows of words.
    unsafe {
        let zero = S::splat(0.0);
        let mut totals = [[zero; D]; QUERIES];
        for block in span.from / BLOCK..span.to.div_ceil(BLOCK) {
            let mut before = [[zero; D]; QUERIES];
            for chain in 0..2 {
                let mut sums = [[zero; D]; QUERIES];
                for step in 0..PAIRS / 2 {
                    let word = block * PAIRS + chain * (PAIRS / 2) + step;
                    let row = chunk.values.as_ptr().add(word * stride + span.dim);
                    let mut values = [zero; D];
                    for (d, value) in values.iter_mut().enumerate() {
                        *value = S::load(row.add(d * LANES).cast());
                    }
                    for (sums, weights) in sums.iter_mut().zip(weights) {
                        let weight = weights.as_ptr().add(word);
                        for (sum, value) in sums.iter_mut().zip(&values) {
                            *sum = S::dot_pairs(*sum, weight, *value);
                        }
                    }
                }
                if chain == 0 {
                    before = sums;
                    continue;
                }
                for ((totals, even), odd) in totals.iter_mut().zip(&before).zip(&sums) {
                    for ((total, even), odd) in totals.iter_mut().zip(even).zip(odd) {
                        *total = S::add(*total, S::add(*even, *odd));
                    }
                }
            }
        }
        merge_values::<S, E, D>(pairs, &totals[..span.count], span);
    }
}
