//! `x * weight^T` over panels of brain-float pairs, in the order that [`crate::cpu::pairs`] states,
//! by multiply-adds of widened values or by the instruction that takes pairs.
//!
//! A tile of up to 6 rows by up to 64 outputs runs through a block twice, once for each chain, with
//! its sums in registers; the first chain's wait on the stack for the second's. Rows of `x` are
//! rounded and laid out once per product, tile by tile, so that a kernel reads them from front to
//! back.

use std::{marker::PhantomData, mem::MaybeUninit};

use super::{
    product::{Product, TASK_ROWS, TILE_ROWS, by_rows, finish},
    vector::{LANES, Simd},
};
use crate::{
    backend::PreparedLinear,
    cpu::{
        packed::PANEL,
        pairs::{BLOCK, PAIRS, PairOrder, narrow, widen, words},
    },
};

/// Blocks whose weights (16 KiB) stay in the first-level cache while all rows of a task use them.
const CHUNK_BLOCKS: usize = 4;

/// How words of weights meet words of `x`.
///
/// # Safety
/// As [`Simd`].
pub(crate) unsafe trait Meet {
    /// The vectors that it computes with.
    type S: Simd;
    /// The order of the weights that it reads.
    const ORDER: PairOrder;
    /// Words of one chain in a block.
    const STEPS: usize;
    /// Words that a row of `x` has for a block.
    const X_WORDS: usize;

    /// Where word `step` of `chain` is in a block of weights, and in one of `x`.
    fn at(chain: usize, step: usize) -> (usize, usize);
    /// The chain's part of 16 words of weights.
    unsafe fn weights(from: *const u32, chain: usize) -> <Self::S as Simd>::V;
    /// `sum` after the step's products with the word `x`.
    unsafe fn step(
        x: *const u32,
        weights: <Self::S as Simd>::V,
        sum: <Self::S as Simd>::V,
    ) -> <Self::S as Simd>::V;
}

/// Pairs are widened and multiplied one by one. `x` is single floats.
pub(crate) struct Widened<S>(PhantomData<S>);

// SAFETY: uses the vector's own operations only.
unsafe impl<S: Simd> Meet for Widened<S> {
    type S = S;
    const ORDER: PairOrder = PairOrder::Natural;
    const STEPS: usize = PAIRS;
    const X_WORDS: usize = BLOCK;

    #[inline(always)]
    fn at(chain: usize, step: usize) -> (usize, usize) {
        (step, 2 * step + chain)
    }

    #[inline(always)]
    unsafe fn weights(from: *const u32, chain: usize) -> S::V {
        // SAFETY: as the trait's.
        unsafe { if chain == 0 { S::load_low(from) } else { S::load_high(from) } }
    }

    #[inline(always)]
    unsafe fn step(x: *const u32, weights: S::V, sum: S::V) -> S::V {
        // SAFETY: as the trait's; any bits are a float.
        unsafe { S::fma(S::splat(*x.cast::<f32>()), weights, sum) }
    }
}

/// Lays a tile of rows (`x`, each `width` long) out as `M` reads it: `[word][row of the tile]`.
#[inline(always)]
pub(crate) fn spread<M: Meet>(x: &[f32], width: usize, out: &mut [u32]) {
    let rows = x.len() / width;
    for (row, values) in x.chunks_exact(width).enumerate() {
        let blocks = out.chunks_exact_mut(M::X_WORDS * rows);
        for (values, out) in values.chunks(BLOCK).zip(blocks) {
            let mut inputs = [0; BLOCK];
            for (input, value) in inputs.iter_mut().zip(values) {
                *input = narrow(*value);
            }
            for (word, out) in out[row..].iter_mut().step_by(rows).enumerate() {
                *out = if M::X_WORDS == BLOCK {
                    widen(inputs[word]).to_bits()
                } else {
                    let (low, high) = M::ORDER.inputs(word);
                    u32::from(inputs[low]) | u32::from(inputs[high]) << 16
                };
            }
        }
    }
}

/// Rows of `x`, each `width` long, as pairs in natural order, `[row][word]`: what tiles take.
#[inline(always)]
pub(crate) fn narrow_rows(x: &[f32], width: usize, out: &mut [u32]) {
    for (values, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(words(width))) {
        let (whole, rest) = values.as_chunks::<2>();
        for ([low, high], out) in whole.iter().zip(&mut *out) {
            *out = u32::from(narrow(*low)) | u32::from(narrow(*high)) << 16;
        }
        out[whole.len()..].fill(0);
        if let [last] = rest {
            out[whole.len()] = u32::from(narrow(*last));
        }
    }
}

/// Up to [`TASK_ROWS`] rows from `first` by one panel in `M`'s order.
///
/// # Safety
/// The machine must have what `M` needs.
#[inline(always)]
pub(crate) unsafe fn rows_of_panel<M: Meet>(
    job: &Product<'_>,
    weights: &[u32],
    panel: usize,
    first: usize,
) {
    let blocks = job.weight.in_features().div_ceil(BLOCK);
    let x_words = blocks * M::X_WORDS;
    let rows = TASK_ROWS.min(job.rows - first);
    assert!(job.x.len() >= job.rows * x_words && weights.len() >= blocks * PAIRS * PANEL);
    let weights = weights.as_ptr();
    let mut totals = [0.0f32; TASK_ROWS * PANEL];
    for start in (0..blocks).step_by(CHUNK_BLOCKS) {
        for row in (0..rows).step_by(TILE_ROWS) {
            let tile_rows = TILE_ROWS.min(rows - row);
            // SAFETY: a tile begins at its first row's multiple of the words, because all before it
            // are full; the panel has `blocks * 16 * PANEL` words.
            unsafe {
                let tile = Tile {
                    x: job.x.as_ptr().add((first + row) * x_words + start * M::X_WORDS * tile_rows),
                    weights: weights.add(start * PAIRS * PANEL),
                    totals: totals.as_mut_ptr().add(row * PANEL),
                    blocks: CHUNK_BLOCKS.min(blocks - start),
                };
                by_rows!(tile_rows, tile_of::<M>(&tile));
            }
        }
    }
    finish(job, &totals[..rows * PANEL], panel, first);
}

/// Some blocks of one tile.
struct Tile {
    x: *const u32,
    weights: *const u32,
    totals: *mut f32,
    blocks: usize,
}

#[inline(always)]
unsafe fn tile_of<M: Meet, const ROWS: usize>(tile: &Tile) {
    for block in 0..tile.blocks {
        // SAFETY: as the caller's: there are so many blocks of both.
        unsafe {
            let x = tile.x.add(block * M::X_WORDS * ROWS);
            let weights = tile.weights.add(block * PAIRS * PANEL);
            // One row alone has registers to spare on every instruction set.
            if ROWS == 1 || <M::S as Simd>::TILE_VECTORS == 4 {
                block_of::<M, ROWS, 4>(x, weights, tile.totals);
            } else {
                for column in (0..PANEL).step_by(LANES) {
                    block_of::<M, ROWS, 1>(x, weights.add(column), tile.totals.add(column));
                }
            }
        }
    }
}

/// `ROWS` by `16 * VECTORS` outputs over one block.
#[inline(always)]
unsafe fn block_of<M: Meet, const ROWS: usize, const VECTORS: usize>(
    x: *const u32,
    weights: *const u32,
    totals: *mut f32,
) {
    // SAFETY: `x` has `X_WORDS * ROWS` words, `weights` `16 * PANEL` without what the caller moved
    // on by, `totals` `ROWS * PANEL` likewise.
    unsafe {
        let even = chain::<M, ROWS, VECTORS>(x, weights, 0);
        if ROWS == 1 {
            let odd = chain::<M, ROWS, VECTORS>(x, weights, 1);
            for (even, odd) in even.iter().zip(&odd) {
                for (v, (even, odd)) in even.iter().zip(odd).enumerate() {
                    add_to::<M::S>(totals.add(v * LANES), *even, *odd);
                }
            }
            return;
        }
        // One row's fit the registers beside the second chain's; of many the compiler would spill
        // what it should not.
        let mut waiting = MaybeUninit::<[[f32; LANES]; TILE_ROWS * 4]>::uninit();
        let waiting = waiting.as_mut_ptr().cast::<f32>();
        for (row, even) in even.iter().enumerate() {
            for (v, even) in even.iter().enumerate() {
                <M::S as Simd>::store(waiting.add((row * VECTORS + v) * LANES), *even);
            }
        }
        let odd = chain::<M, ROWS, VECTORS>(x, weights, 1);
        for (row, odd) in odd.iter().enumerate() {
            for (v, odd) in odd.iter().enumerate() {
                let even = <M::S as Simd>::load(waiting.add((row * VECTORS + v) * LANES));
                add_to::<M::S>(totals.add(row * PANEL + v * LANES), even, *odd);
            }
        }
    }
}

/// The end of a block: both chains to the total.
#[inline(always)]
unsafe fn add_to<S: Simd>(total: *mut f32, even: S::V, odd: S::V) {
    // SAFETY: as the caller's.
    unsafe { S::store(total, S::add(S::load(total), S::add(even, odd))) }
}

/// One chain of a block.
#[inline(always)]
unsafe fn chain<M: Meet, const ROWS: usize, const VECTORS: usize>(
    x: *const u32,
    weights: *const u32,
    chain: usize,
) -> [[<M::S as Simd>::V; VECTORS]; ROWS] {
    // SAFETY: as the caller's.
    unsafe {
        let zero = <M::S as Simd>::splat(0.0);
        let mut sums = [[zero; VECTORS]; ROWS];
        for step in 0..M::STEPS {
            let (weight_word, x_word) = M::at(chain, step);
            let from = weights.add(weight_word * PANEL);
            let mut w = [zero; VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = M::weights(from.add(v * LANES), chain);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = x.add(x_word * ROWS + row);
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum = M::step(x, *w, *sum);
                }
            }
        }
        sums
    }
}
