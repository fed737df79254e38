//! `x * weight^T` over panels of brain-float pairs, in the order that [`crate::cpu::pairs`] states,
//! by multiply-adds of widened values. (Where there is an instruction that takes pairs it has a
//! kernel of its own.)
//!
//! A tile of up to 6 rows by up to 64 outputs runs through a block twice, once for each chain, with
//! its sums in registers; the first chain's wait on the stack for the second's. Rows of `x` are
//! rounded and laid out once per product, tile by tile, so that a kernel reads them from front to
//! back.

use std::mem::MaybeUninit;

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

/// Lays a tile of rows (`x`, each `width` long) out as `[word][row of the tile]`: pairs in `order`,
/// or if `WIDE` an input for each word, as a single float.
#[inline(always)]
pub(crate) fn spread<const WIDE: bool>(order: PairOrder, x: &[f32], width: usize, out: &mut [u32]) {
    let rows = x.len() / width;
    let words = if WIDE { BLOCK } else { PAIRS };
    for (row, values) in x.chunks_exact(width).enumerate() {
        let blocks = out.chunks_exact_mut(words * rows);
        for (values, out) in values.chunks(BLOCK).zip(blocks) {
            let mut inputs = [0; BLOCK];
            for (input, value) in inputs.iter_mut().zip(values) {
                *input = narrow(*value);
            }
            for (word, out) in out[row..].iter_mut().step_by(rows).enumerate() {
                *out = if WIDE {
                    widen(inputs[word]).to_bits()
                } else {
                    let (low, high) = order.inputs(word);
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

/// Up to [`TASK_ROWS`] rows from `first` by one panel in natural order.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn rows_of_panel<S: Simd>(
    job: &Product<'_>,
    weights: &[u32],
    panel: usize,
    first: usize,
) {
    let blocks = job.weight.in_features().div_ceil(BLOCK);
    let x_words = blocks * BLOCK;
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
                    x: job.x.as_ptr().add((first + row) * x_words + start * BLOCK * tile_rows),
                    weights: weights.add(start * PAIRS * PANEL),
                    totals: totals.as_mut_ptr().add(row * PANEL),
                    blocks: CHUNK_BLOCKS.min(blocks - start),
                };
                by_rows!(tile_rows, tile_of::<S>(&tile));
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
unsafe fn tile_of<S: Simd, const ROWS: usize>(tile: &Tile) {
    for block in 0..tile.blocks {
        // SAFETY: as the caller's: there are so many blocks of both.
        unsafe {
            let x = tile.x.add(block * BLOCK * ROWS);
            let weights = tile.weights.add(block * PAIRS * PANEL);
            // One row alone has registers to spare on every instruction set.
            if ROWS == 1 || S::TILE_VECTORS == 4 {
                block_of::<S, ROWS, 4>(x, weights, tile.totals);
            } else {
                for column in (0..PANEL).step_by(LANES) {
                    block_of::<S, ROWS, 1>(x, weights.add(column), tile.totals.add(column));
                }
            }
        }
    }
}

/// `ROWS` by `16 * VECTORS` outputs over one block.
#[inline(always)]
unsafe fn block_of<S: Simd, const ROWS: usize, const VECTORS: usize>(
    x: *const u32,
    weights: *const u32,
    totals: *mut f32,
) {
    // SAFETY: `x` has `X_WORDS * ROWS` words, `weights` `16 * PANEL` without what the caller moved
    // on by, `totals` `ROWS * PANEL` likewise.
    unsafe {
        let even = chain::<S, ROWS, VECTORS>(x, weights, 0);
        if ROWS == 1 {
            let odd = chain::<S, ROWS, VECTORS>(x, weights, 1);
            for (even, odd) in even.iter().zip(&odd) {
                for (v, (even, odd)) in even.iter().zip(odd).enumerate() {
                    add_to::<S>(totals.add(v * LANES), *even, *odd);
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
                S::store(waiting.add((row * VECTORS + v) * LANES), *even);
            }
        }
        let odd = chain::<S, ROWS, VECTORS>(x, weights, 1);
        for (row, odd) in odd.iter().enumerate() {
            for (v, odd) in odd.iter().enumerate() {
                let even = S::load(waiting.add((row * VECTORS + v) * LANES));
                add_to::<S>(totals.add(row * PANEL + v * LANES), even, *odd);
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
unsafe fn chain<S: Simd, const ROWS: usize, const VECTORS: usize>(
    x: *const u32,
    weights: *const u32,
    chain: usize,
) -> [[S::V; VECTORS]; ROWS] {
    // SAFETY: as the caller's.
    unsafe {
        let zero = S::splat(0.0);
        let mut sums = [[zero; VECTORS]; ROWS];
        for step in 0..PAIRS {
            let from = weights.add(step * PANEL);
            let mut w = [zero; VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                let from = from.add(v * LANES);
                *w = if chain == 0 { S::load_low(from) } else { S::load_high(from) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = S::splat(*x.add((2 * step + chain) * ROWS + row).cast::<f32>());
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum = S::fma(x, *w, *sum);
                }
            }
        }
        sums
    }
}
