//! `x * weight^T` over panels of integers ([`crate::cpu::integers`]): sums of bytes' products are
//! whole numbers, so only where they become floats has an order.
//!
//! A tile of up to 6 rows by up to 64 outputs keeps its sums in registers, with eight bits over
//! some blocks, and in between they wait in memory as integers; with four bits over one block,
//! which is a group, after which they are scaled and added to floats. The weights that come next
//! are asked for meanwhile.

use std::mem::MaybeUninit;

use super::{
    product::{Product, TASK_ROWS, TILE_ROWS, by_rows, finish},
    vector::{LANES, Simd},
};
use crate::{
    backend::PreparedLinear,
    cpu::{
        integers::{Bits, GROUP, WORDS, byte, row_scale},
        packed::{Integers, PANEL},
    },
};

/// Sixteen words of four bytes, and sixteen sums.
///
/// # Safety
/// As [`Simd`].
pub(crate) unsafe trait Bytes {
    /// The floats that go with them.
    type S: Simd;
    /// Sixteen words, or sums.
    type W: Copy;

    unsafe fn splat(value: i32) -> Self::W;
    unsafe fn load(from: *const u32) -> Self::W;
    unsafe fn store(to: *mut u32, value: Self::W);
    unsafe fn add(a: Self::W, b: Self::W) -> Self::W;
    /// The lower four bits of every byte.
    unsafe fn low(words: Self::W) -> Self::W;
    /// The upper four.
    unsafe fn high(words: Self::W) -> Self::W;
    /// `sums` plus, for each word, the products of its unsigned bytes with the signed ones of `x`.
    unsafe fn dot(sums: Self::W, words: Self::W, x: *const u32) -> Self::W;
    unsafe fn to_floats(sums: Self::W) -> <Self::S as Simd>::V;
}

/// Words of a row of `x`: its scale, the sum of each block, and its bytes.
pub(crate) const fn row_words(width: usize) -> usize {
    1 + width.div_ceil(GROUP) * (1 + WORDS)
}

/// Quantizes a tile of rows (`x`, each `width` long) to `out`, `[word][row of the tile]`. `peaks`
/// are their largest magnitudes over all ranks, or nothing.
#[inline(always)]
pub(crate) fn spread(x: &[f32], peaks: &[f32], width: usize, out: &mut [u32]) {
    let (rows, blocks) = (x.len() / width, width.div_ceil(GROUP));
    let (head, body) = out.split_at_mut(rows * (1 + blocks));
    for (row, x) in x.chunks_exact(width).enumerate() {
        let (scale, inverse) = row_scale(x, peaks.get(row));
        head[row] = scale.to_bits();
        let words = body.chunks_exact_mut(WORDS * rows);
        for (block, (x, out)) in x.chunks(GROUP).zip(words).enumerate() {
            let (words, sum) = quantized(x, inverse);
            head[rows * (1 + block) + row] = sum.cast_unsigned();
            for (word, out) in words.iter().zip(out[row..].iter_mut().step_by(rows)) {
                *out = *word;
            }
        }
    }
}

/// Rows of `x`, each `width` long, for tiles: `[row][word]`, and behind each row a block with its
/// scale and the sum of its bytes. `peaks` as in [`spread`].
#[inline(always)]
pub(crate) fn quantize_rows(x: &[f32], peaks: &[f32], width: usize, out: &mut [u32]) {
    let blocks = width.div_ceil(GROUP);
    let words = (blocks + 1) * WORDS;
    let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(words));
    for (row, (x, out)) in rows.enumerate() {
        let (scale, inverse) = row_scale(x, peaks.get(row));
        let (out, end) = out.split_at_mut(blocks * WORDS);
        let mut total = 0i32;
        for (x, out) in x.chunks(GROUP).zip(out.chunks_exact_mut(WORDS)) {
            let (words, sum) = quantized(x, inverse);
            out.copy_from_slice(&words);
            total = total.wrapping_add(sum);
        }
        end[..2].copy_from_slice(&[scale.to_bits(), total.cast_unsigned()]);
    }
}

/// A block of activations, and the sum of its bytes.
#[inline(always)]
fn quantized(x: &[f32], inverse: f32) -> ([u32; WORDS], i32) {
    let mut bytes = [0i8; GROUP];
    for (to, x) in bytes.iter_mut().zip(x) {
        *to = byte(*x, inverse);
    }
    let sum = bytes.iter().fold(0i32, |sum, byte| sum.wrapping_add(i32::from(*byte)));
    let mut words = [0; WORDS];
    for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(four.map(i8::cast_unsigned));
    }
    (words, sum)
}

/// Up to [`TASK_ROWS`] rows from `first` by one panel.
///
/// # Safety
/// The machine must have what `B` needs.
#[inline(always)]
pub(crate) unsafe fn rows_of_panel<B: Bytes>(
    job: &Product<'_>,
    integers: &Integers,
    panel: usize,
    first: usize,
) {
    let width = job.weight.in_features();
    let blocks = width.div_ceil(GROUP);
    let words = row_words(width);
    let rows = TASK_ROWS.min(job.rows - first);
    assert!(job.x.len() >= job.rows * words);
    let weights = integers.panel(panel, blocks);
    let mut totals = MaybeUninit::<[u32; TASK_ROWS * PANEL]>::uninit();
    let totals = totals.as_mut_ptr().cast::<u32>();
    let block_words = integers.bits.words() * PANEL;
    // What a chunk of weights takes of the first-level cache: 16 KiB.
    let chunk = 4 * WORDS / integers.bits.words();
    let share = (chunk * block_words / LANES).div_ceil(rows.div_ceil(TILE_ROWS));
    for start in (0..blocks).step_by(chunk) {
        for (number, row) in (0..rows).step_by(TILE_ROWS).enumerate() {
            let tile_rows = TILE_ROWS.min(rows - row);
            let x = &job.x[(first + row) * words..][..tile_rows * words];
            let (head, body) = x.split_at(tile_rows * (1 + blocks));
            let scales = match integers.bits {
                Bits::Eight => std::ptr::null(),
                Bits::Four => integers.group_scales(panel, start, blocks).as_ptr(),
            };
            let ahead = weights.as_ptr().wrapping_add((start + chunk) * block_words);
            let tile = Tile {
                x: body[start * WORDS * tile_rows..].as_ptr(),
                sums: head[(1 + start) * tile_rows..].as_ptr(),
                weights: weights[start * block_words..].as_ptr(),
                scales,
                // SAFETY: there are totals for all rows.
                totals: unsafe { totals.add(row * PANEL) },
                blocks: chunk.min(blocks - start),
                begin: start == 0,
                ahead: ahead.wrapping_add(number * share * LANES),
                share,
            };
            // SAFETY: the slices above have what so many blocks of so many rows need.
            unsafe {
                match integers.bits {
                    Bits::Eight => by_rows!(tile_rows, eight::<B>(&tile)),
                    Bits::Four => by_rows!(tile_rows, four::<B>(&tile)),
                }
            }
        }
    }
    // SAFETY: the tiles have written `rows * PANEL` totals, and floats have the size of their bits.
    let values = unsafe { std::slice::from_raw_parts_mut(totals.cast::<f32>(), rows * PANEL) };
    for (row, values) in values.chunks_exact_mut(PANEL).enumerate() {
        // A tile begins with its rows' scales.
        let tile = (first + row / TILE_ROWS * TILE_ROWS) * words;
        let scale = f32::from_bits(job.x[tile + row % TILE_ROWS]);
        match integers.bits {
            Bits::Eight => {
                for (value, output) in values.iter_mut().zip(integers.output_scales(panel)) {
                    *value = value.to_bits().cast_signed() as f32 * (scale * output);
                }
            }
            Bits::Four => values.iter_mut().for_each(|value| *value *= scale),
        }
    }
    finish(job, values, panel, first);
}

/// Some blocks of one tile.
struct Tile {
    /// `[block][16][rows]` words.
    x: *const u32,
    /// The rows' sums of each block.
    sums: *const u32,
    weights: *const u32,
    /// 64 brain floats for each block, with four bits.
    scales: *const u16,
    /// `[rows][64]`, integers or floats.
    totals: *mut u32,
    blocks: usize,
    /// Whether totals begin with these blocks.
    begin: bool,
    /// What comes next, and how many lines of it are asked for meanwhile; may be beyond the end.
    ahead: *const u32,
    share: usize,
}

impl Tile {
    /// Asks for a block's part of what comes next, in one of so many passes over the blocks.
    #[inline(always)]
    fn look_ahead<S: Simd>(&self, block: usize, (pass, passes): (usize, usize)) {
        let each = self.share.div_ceil(passes * self.blocks);
        for line in 0..each {
            let line = (pass * self.blocks + block) * each + line;
            S::prefetch(self.ahead.wrapping_add(line * LANES));
        }
    }
}

/// Blocks of eight bits: 64 outputs in one go, or 16 where registers are few.
#[inline(always)]
unsafe fn eight<B: Bytes, const ROWS: usize>(tile: &Tile) {
    // SAFETY: as the caller's.
    unsafe {
        if ROWS == 1 || <B::S as Simd>::TILE_VECTORS == 4 {
            eight_of::<B, ROWS, 4>(tile, 0);
        } else {
            for column in (0..PANEL).step_by(LANES) {
                eight_of::<B, ROWS, 1>(tile, column);
            }
        }
    }
}

#[inline(always)]
unsafe fn eight_of<B: Bytes, const ROWS: usize, const VECTORS: usize>(tile: &Tile, column: usize) {
    // SAFETY: `x` has `blocks * 16 * ROWS` words, `weights` `blocks * 16 * PANEL`, `totals`
    // `ROWS * PANEL`.
    unsafe {
        let mut sums = [[B::splat(0); VECTORS]; ROWS];
        for block in 0..tile.blocks {
            tile.look_ahead::<B::S>(block, (column / LANES, PANEL / LANES / VECTORS));
            add_begin::<B, ROWS, VECTORS>(tile, (Bits::Eight, block), &mut sums);
            for word in block * WORDS..(block + 1) * WORDS {
                let from = tile.weights.add(word * PANEL + column);
                let x = tile.x.add(word * ROWS);
                for v in 0..VECTORS {
                    let w = B::load(from.add(v * LANES));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[v] = B::dot(sums[v], w, x.add(row));
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let total = tile.totals.add(row * PANEL + column + v * LANES);
                let sum = if tile.begin { *sum } else { B::add(B::load(total), *sum) };
                B::store(total, sum);
            }
        }
    }
}

/// Blocks of four bits.
#[inline(always)]
unsafe fn four<B: Bytes, const ROWS: usize>(tile: &Tile) {
    // SAFETY: as the caller's.
    unsafe {
        if ROWS == 1 || <B::S as Simd>::TILE_VECTORS == 4 {
            four_of::<B, ROWS, 4>(tile, 0);
        } else {
            for column in (0..PANEL).step_by(LANES) {
                four_of::<B, ROWS, 1>(tile, column);
            }
        }
    }
}

#[inline(always)]
unsafe fn four_of<B: Bytes, const ROWS: usize, const VECTORS: usize>(tile: &Tile, column: usize) {
    // SAFETY: as above, with 8 words of weights and 64 scales for each block.
    unsafe {
        for block in 0..tile.blocks {
            tile.look_ahead::<B::S>(block, (column / LANES, PANEL / LANES / VECTORS));
            let mut sums = [[B::splat(0); VECTORS]; ROWS];
            add_begin::<B, ROWS, VECTORS>(tile, (Bits::Four, block), &mut sums);
            let x = tile.x.add(block * WORDS * ROWS);
            for word in 0..WORDS / 2 {
                let from = tile.weights.add((block * WORDS / 2 + word) * PANEL + column);
                let low = x.add(word * ROWS);
                let high = x.add((WORDS / 2 + word) * ROWS);
                for v in 0..VECTORS {
                    let w = B::load(from.add(v * LANES));
                    let (below, above) = (B::low(w), B::high(w));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[v] = B::dot(sums[v], below, low.add(row));
                        sums[v] = B::dot(sums[v], above, high.add(row));
                    }
                }
            }
            for v in 0..VECTORS {
                let at = column + v * LANES;
                let scale = <B::S as Simd>::load_bf16(tile.scales.add(block * PANEL + at));
                for (row, sums) in sums.iter().enumerate() {
                    let total = tile.totals.add(row * PANEL + at).cast::<f32>();
                    let before = match tile.begin && block == 0 {
                        true => <B::S as Simd>::splat(0.0),
                        false => <B::S as Simd>::load(total),
                    };
                    let sum = <B::S as Simd>::fma(B::to_floats(sums[v]), scale, before);
                    <B::S as Simd>::store(total, sum);
                }
            }
        }
    }
}

/// Adds what the weights' zero adds to each sum in a block.
#[inline(always)]
unsafe fn add_begin<B: Bytes, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    (bits, block): (Bits, usize),
    sums: &mut [[B::W; VECTORS]; ROWS],
) {
    // SAFETY: there is a sum for each row and block.
    unsafe {
        for (row, sums) in sums.iter_mut().enumerate() {
            let sum = (*tile.sums.add(block * ROWS + row)).cast_signed();
            let zero = B::splat(-sum * bits.zero());
            for sum in sums {
                *sum = B::add(*sum, zero);
            }
        }
    }
}
