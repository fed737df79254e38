//! The instruction that multiplies pairs of brain floats, `VDPBF16PS`. Needs `avx512f`,
//! `avx512bw` and `avx512bf16`.
//!
//! It adds the product of the upper halves and then that of the lower ones, each rounded once, as
//! two multiply-adds do; so two steps of a chain are one instruction when they share a word
//! ([`PairOrder::Chained`]).

//!
//! A tile of 4 rows by 32 outputs has both chains of a block and its totals in registers, so that
//! nothing is stored until many blocks are done and sixteen products wait for none of each other:
//! the unit that multiplies takes two at a time and needs six cycles for each.

use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{
    attention::{self, Attention},
    avx512::Avx512,
    pairs,
    product::{Product, TASK_ROWS, finish},
    vector::LANES,
};
use crate::{
    backend::PreparedLinear,
    cpu::{
        packed::PANEL,
        pairs::{BLOCK, PAIRS, PairOrder},
    },
};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 4;
/// Blocks whose weights (16 KiB) stay in the first-level cache while all rows of a task use them.
/// Those of the next blocks are asked for meanwhile: the processor would not look so far ahead, and
/// a step of a few rows would first wait for memory and then compute, instead of both at once.
const CHUNK_BLOCKS: usize = 4;

/// One task of a product by a panel of chained pairs.
///
/// # Safety
/// The machine must have this module's features; each task is run once.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn pairs(job: &Product<'_>, weights: &[u32], task: usize) {
    let (panel, first) = job.place(task);
    let blocks = job.weight.in_features().div_ceil(BLOCK);
    let words = blocks * PAIRS;
    let rows = TASK_ROWS.min(job.rows - first);
    assert!(job.x.len() >= job.rows * words && weights.len() >= words * PANEL);
    let mut totals = MaybeUninit::<[f32; TASK_ROWS * PANEL]>::uninit();
    let totals = totals.as_mut_ptr().cast::<f32>();
    let share = LINES.div_ceil(rows.div_ceil(TILE_ROWS));
    for start in (0..blocks).step_by(CHUNK_BLOCKS) {
        for (tile, row) in (0..rows).step_by(TILE_ROWS).enumerate() {
            let tile_rows = TILE_ROWS.min(rows - row);
            // SAFETY: a tile begins at its first row's multiple of the words, because all before it
            // are full; the panel has `blocks * 16 * PANEL` words.
            unsafe {
                let tile = Tile {
                    x: job.x.as_ptr().add((first + row) * words + start * PAIRS * tile_rows),
                    weights: weights.as_ptr().add(start * PAIRS * PANEL),
                    totals: totals.add(row * PANEL),
                    blocks: CHUNK_BLOCKS.min(blocks - start),
                    begin: start == 0,
                    ahead: (weights.as_ptr().cast::<Line>())
                        .wrapping_add((start + CHUNK_BLOCKS) * BLOCK_LINES + tile * share),
                    share,
                };
                match tile_rows {
                    1 => tile.sum::<1, 4>(),
                    2 => tile.sum::<2, 4>(),
                    3 => tile.sum::<3, 2>(),
                    _ => tile.sum::<4, 2>(),
                }
            }
        }
    }
    // SAFETY: the tiles have written `rows * PANEL` totals.
    let totals = unsafe { std::slice::from_raw_parts(totals, rows * PANEL) };
    finish(job, totals, panel, first);
}

/// Some blocks of one tile.
struct Tile {
    /// `[word][row]`.
    x: *const u32,
    weights: *const u32,
    totals: *mut f32,
    blocks: usize,
    /// Whether totals begin with these blocks.
    begin: bool,
    /// What of the next blocks is asked for meanwhile; may be beyond the last.
    ahead: *const Line,
    share: usize,
}

/// A line of the processor's cache.
#[repr(C, align(64))]
struct Line([u32; LANES]);

/// Lines of a block of weights.
const BLOCK_LINES: usize = PAIRS * PANEL / LANES;
/// Lines of a chunk.
const LINES: usize = CHUNK_BLOCKS * BLOCK_LINES;

impl Tile {
    /// All 64 outputs of `ROWS` rows, 16 times `VECTORS` at a time.
    #[inline(always)]
    unsafe fn sum<const ROWS: usize, const VECTORS: usize>(&self) {
        let passes = PANEL / (LANES * VECTORS);
        let each = self.share.div_ceil(passes * self.blocks);
        for pass in 0..passes {
            let ahead = self.ahead.wrapping_add(pass * self.blocks * each);
            // SAFETY: as the caller's.
            unsafe { self.columns::<ROWS, VECTORS>(pass * LANES * VECTORS, (ahead, each)) }
        }
    }

    #[inline(always)]
    unsafe fn columns<const ROWS: usize, const VECTORS: usize>(
        &self,
        column: usize,
        (ahead, each): (*const Line, usize),
    ) {
        // SAFETY: `x` has `blocks * 16 * ROWS` words, `weights` `blocks * 16 * PANEL`, `totals`
        // `ROWS * PANEL`, and `column + 16 * VECTORS` is at most `PANEL`.
        unsafe {
            let zero = _mm512_setzero_ps();
            let mut totals = [[zero; VECTORS]; ROWS];
            if !self.begin {
                for (row, totals) in totals.iter_mut().enumerate() {
                    for (v, total) in totals.iter_mut().enumerate() {
                        *total = _mm512_loadu_ps(self.totals.add(row * PANEL + column + v * LANES));
                    }
                }
            }
            for block in 0..self.blocks {
                let x = self.x.add(block * PAIRS * ROWS);
                let weights = self.weights.add(block * PAIRS * PANEL + column);
                for line in 0..each {
                    let line = ahead.wrapping_add(block * each + line);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                let mut chains = [[[zero; VECTORS]; ROWS]; 2];
                for step in 0..STEPS {
                    for (chain, sums) in chains.iter_mut().enumerate() {
                        let word = chain * STEPS + step;
                        let mut w = [zero; VECTORS];
                        for (v, w) in w.iter_mut().enumerate() {
                            *w = _mm512_loadu_ps(weights.add(word * PANEL + v * LANES).cast());
                        }
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_set1_epi32((*x.add(word * ROWS + row)).cast_signed());
                            for (sum, w) in sums.iter_mut().zip(w) {
                                *sum = products(*sum, x, w);
                            }
                        }
                    }
                }
                let [even, odd] = chains;
                for (row, totals) in totals.iter_mut().enumerate() {
                    for (v, total) in totals.iter_mut().enumerate() {
                        *total = _mm512_add_ps(*total, _mm512_add_ps(even[row][v], odd[row][v]));
                    }
                }
            }
            for (row, totals) in totals.iter().enumerate() {
                for (v, total) in totals.iter().enumerate() {
                    _mm512_storeu_ps(self.totals.add(row * PANEL + column + v * LANES), *total);
                }
            }
        }
    }
}

/// `sum` after the products of 16 words of pairs with the words `x`.
#[inline(always)]
unsafe fn products(sum: __m512, x: __m512i, weights: __m512) -> __m512 {
    // SAFETY: the feature is the caller's promise; the casts keep the bits.
    unsafe {
        let x = std::mem::transmute::<__m512i, __m512bh>(x);
        let weights = std::mem::transmute::<__m512, __m512bh>(weights);
        _mm512_dpbf16_ps(sum, x, weights)
    }
}

/// Words of one chain in a block.
const STEPS: usize = PAIRS / 2;

/// [`pairs::spread`] for this kernel.
///
/// # Safety
/// The machine must have this module's features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn spread_pairs(x: &[f32], width: usize, out: &mut [u32]) {
    pairs::spread::<false>(PairOrder::Chained, x, width, out);
}

/// One task of attention, with brain floats multiplied by pairs.
///
/// # Safety
/// The machine must have this module's features; each task is run once.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn attention(job: &Attention<'_>, task: usize) {
    // SAFETY: features as promised by the caller.
    unsafe { attention::task::<Avx512<true>>(job, task) }
}
