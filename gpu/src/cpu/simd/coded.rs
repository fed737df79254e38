//! `x * weight^T` over panels of codes ([`crate::cpu::coded`]): the order of
//! [`super::product`]'s chains, with weights that become floats in registers on their way.
//!
//! A tile of up to 6 rows shares each weight that was made. Decoding costs four or five operations
//! for sixteen weights, which a single row pays for and many rows hardly see.

use std::marker::PhantomData;

use super::{
    product::{CHAIN, Product, TASK_ROWS, TILE_ROWS, by_rows, finish},
    vector::{LANES, Simd},
};
use crate::{
    backend::PreparedLinear,
    cpu::{coded::Coded, packed::PANEL},
    quant::codes::CodeKind,
};

/// How sixteen codes become weights.
///
/// # Safety
/// As [`Simd`]. Of `offsets` nothing need be there where [`Form::OFFSETS`] is false.
unsafe trait Form: Copy {
    /// Bits of a code.
    const BITS: usize;
    /// Whether offsets are read.
    const OFFSETS: bool;

    /// The weights whose codes are `shift` above the lowest bit of sixteen words.
    unsafe fn weights<S: Simd>(
        words: *const u32,
        shift: u32,
        scales_and_offsets: (*const f32, *const f32),
        zero: S::V,
    ) -> S::V;
}

/// Integers with one zero.
#[derive(Clone, Copy)]
struct OneZero<const BITS: usize>;
/// Integers with zeros by group.
#[derive(Clone, Copy)]
struct ByGroup<const BITS: usize>;
/// Eight-bit floats.
#[derive(Clone, Copy)]
struct Floats;

// SAFETY: reads sixteen words and scales, as the trait allows.
unsafe impl<const BITS: usize> Form for OneZero<BITS> {
    const BITS: usize = BITS;
    const OFFSETS: bool = false;

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        words: *const u32,
        shift: u32,
        (scales, _): (*const f32, *const f32),
        zero: S::V,
    ) -> S::V {
        // SAFETY: as the trait's.
        unsafe {
            let codes = S::load_field(words, shift, (1 << BITS) - 1);
            S::mul(S::sub(codes, zero), S::load(scales))
        }
    }
}

// SAFETY: reads sixteen words, scales and offsets, as the trait allows.
unsafe impl<const BITS: usize> Form for ByGroup<BITS> {
    const BITS: usize = BITS;
    const OFFSETS: bool = true;

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        words: *const u32,
        shift: u32,
        (scales, offsets): (*const f32, *const f32),
        _zero: S::V,
    ) -> S::V {
        // SAFETY: as the trait's.
        unsafe {
            let codes = S::load_field(words, shift, (1 << BITS) - 1);
            S::fma(codes, S::load(scales), S::load(offsets))
        }
    }
}

// SAFETY: reads sixteen words and scales, as the trait allows.
unsafe impl Form for Floats {
    const BITS: usize = 8;
    const OFFSETS: bool = false;

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        words: *const u32,
        shift: u32,
        (scales, _): (*const f32, *const f32),
        _zero: S::V,
    ) -> S::V {
        // SAFETY: as the trait's.
        unsafe { S::mul(S::load_fp8(words, shift), S::load(scales)) }
    }
}

/// Up to [`TASK_ROWS`] rows from `first` by one panel.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn rows_of_panel<S: Simd>(
    job: &Product<'_>,
    coded: &Coded,
    panel: usize,
    first: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match (coded.kind, coded.has_offsets()) {
            (CodeKind::Fp8, _) => rows_in_form::<S, Floats>(job, coded, panel, first),
            (CodeKind::Int4, false) => rows_in_form::<S, OneZero<4>>(job, coded, panel, first),
            (CodeKind::Int4, true) => rows_in_form::<S, ByGroup<4>>(job, coded, panel, first),
            (CodeKind::Int8, false) => rows_in_form::<S, OneZero<8>>(job, coded, panel, first),
            (CodeKind::Int8, true) => rows_in_form::<S, ByGroup<8>>(job, coded, panel, first),
        }
    }
}

#[inline(always)]
unsafe fn rows_in_form<S: Simd, F: Form>(
    job: &Product<'_>,
    coded: &Coded,
    panel: usize,
    first: usize,
) {
    let width = job.weight.in_features();
    let rows = TASK_ROWS.min(job.rows - first);
    assert!(job.x.len() >= job.rows * width && coded.group_of.len() == width);
    let (scales, offsets) = coded.scales(panel);
    let words = coded.panel(panel);
    let mut totals = [0.0f32; TASK_ROWS * PANEL];
    for start in (0..width).step_by(CHAIN) {
        let depth = CHAIN.min(width - start);
        for row in (0..rows).step_by(TILE_ROWS) {
            let tile_rows = TILE_ROWS.min(rows - row);
            let tile = Tile::<F> {
                x: job.x[(first + row) * width + start * tile_rows..].as_ptr().cast(),
                words: words[start / (32 / F::BITS) * PANEL..].as_ptr(),
                groups: coded.group_of[start..].as_ptr(),
                scales: scales.as_ptr(),
                offsets: offsets.as_ptr(),
                zero: coded.zero,
                totals: totals[row * PANEL..].as_mut_ptr(),
                depth,
                begin: start == 0,
                form: PhantomData,
            };
            // SAFETY: a tile begins at its first row's multiple of the width, because all before it
            // are full; groups were numbered when the codes were packed, each with 64 scales.
            unsafe { by_rows!(tile_rows, tile_of::<S, F>(&tile)) };
        }
    }
    finish(job, &totals[..rows * PANEL], panel, first);
}

/// One chain's worth of one tile. A chain begins with a word.
struct Tile<F> {
    /// `[depth][rows]`.
    x: *const f32,
    words: *const u32,
    groups: *const u32,
    scales: *const f32,
    offsets: *const f32,
    zero: f32,
    totals: *mut f32,
    depth: usize,
    /// Whether totals begin with this chain.
    begin: bool,
    form: PhantomData<F>,
}

#[inline(always)]
unsafe fn tile_of<S: Simd, F: Form, const ROWS: usize>(tile: &Tile<F>) {
    // SAFETY: as the caller's.
    unsafe {
        // As with other weights, where registers are few.
        if ROWS == 1 || S::TILE_VECTORS == 4 {
            chains::<S, F, ROWS, 4>(tile, 0);
        } else {
            for column in (0..PANEL).step_by(LANES) {
                chains::<S, F, ROWS, 1>(tile, column);
            }
        }
    }
}

/// `ROWS` by `16 * VECTORS` chains.
#[inline(always)]
unsafe fn chains<S: Simd, F: Form, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile<F>,
    column: usize,
) {
    let per_word = 32 / F::BITS;
    // SAFETY: `x` has `depth * ROWS` elements, `words` one for each `per_word` of them and each of
    // 64 outputs, `groups` `depth`, scales and offsets 64 for each group, `totals` `ROWS * PANEL`;
    // `column + 16 * VECTORS` is at most `PANEL`.
    unsafe {
        let zero = S::splat(tile.zero);
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        for input in 0..tile.depth {
            let words = tile.words.add(input / per_word * PANEL + column);
            // At most 28.
            let shift = (input % per_word * F::BITS) as u32;
            let at = *tile.groups.add(input) as usize * PANEL + column;
            let x = tile.x.add(input * ROWS);
            for v in 0..VECTORS {
                let scales = tile.scales.add(at + v * LANES);
                let offsets = match F::OFFSETS {
                    true => tile.offsets.add(at + v * LANES),
                    false => tile.offsets,
                };
                let w = F::weights::<S>(words.add(v * LANES), shift, (scales, offsets), zero);
                for (row, sums) in sums.iter_mut().enumerate() {
                    sums[v] = S::fma(S::splat(*x.add(row)), w, sums[v]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let total = tile.totals.add(row * PANEL + column + v * LANES);
                let value = if tile.begin { *sum } else { S::add(S::load(total), *sum) };
                S::store(total, value);
            }
        }
    }
}
