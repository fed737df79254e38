//! `x * weight^T` over packed panels, one kernel for one row and for thousands.
//!
//! Each output is one chain of fused multiply-adds over 256 inputs at a time, the chains' results
//! added in order (see [`crate::cpu`]). Vector lanes hold 16 *outputs*, so no order depends on
//! their number; a tile of 6 rows by up to 64 outputs keeps its sums in registers. Brain floats
//! have an order and kernels of their own, [`super::pairs`].

use std::mem::MaybeUninit;

use super::{
    coded, integers,
    pool::Pieces,
    vector::{LANES, Simd, Stored, StoredF16, StoredF32},
};
use crate::{
    backend::PreparedLinear,
    cpu::packed::{CpuLinear, Elements, PANEL},
};

/// Calls a function whose last constant is the rows of a tile.
macro_rules! by_rows {
    ($rows:expr, $function:ident::<$($kind:ty),+>($argument:expr)) => {
        match $rows {
            1 => $function::<$($kind),+, 1>($argument),
            2 => $function::<$($kind),+, 2>($argument),
            3 => $function::<$($kind),+, 3>($argument),
            4 => $function::<$($kind),+, 4>($argument),
            5 => $function::<$($kind),+, 5>($argument),
            _ => $function::<$($kind),+, 6>($argument),
        }
    };
}

pub(super) use by_rows;

/// Inputs that one chain sums.
pub(crate) const CHAIN: usize = 256;
/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 6;
/// Rows of one task: what keeps its share of `x` in the second-level cache. A multiple of every
/// tile's.
pub(super) const TASK_ROWS: usize = 96;

/// One product, to be computed task by task.
pub(crate) struct Product<'a> {
    /// The input as the weights' kernel wants it. For most that is what [`interleave`] makes: tiles
    /// of 6 rows (the last may have fewer), each `[K][rows]`, as the floats' bits.
    pub(crate) x: &'a [u32],
    pub(crate) rows: usize,
    pub(crate) weight: &'a CpuLinear,
    /// Whether `out` is added to.
    pub(crate) add: bool,
    /// `[rows, out_features]`.
    pub(crate) out: Pieces<'a, f32>,
}

impl Product<'_> {
    /// How many tasks there are. Tasks write disjoint parts of the output.
    pub(crate) fn tasks(&self) -> usize {
        self.weight.out_features().div_ceil(PANEL) * self.rows.div_ceil(TASK_ROWS)
    }

    /// The panel of task `task`, and its first row.
    pub(super) fn place(&self, task: usize) -> (usize, usize) {
        let blocks = self.rows.div_ceil(TASK_ROWS);
        (task / blocks, task % blocks * TASK_ROWS)
    }

    /// Multiply-adds of all tasks.
    pub(crate) fn operations(&self) -> usize {
        self.rows * self.weight.in_features() * self.weight.out_features()
    }
}

/// Writes a tile of rows (`x`, each `width` long) to `out` as `[width][rows of the tile]`.
pub(crate) fn interleave(x: &[f32], width: usize, out: &mut [u32]) {
    let rows = out.len() / width;
    for (row, values) in x.chunks_exact(width).enumerate() {
        for (to, value) in out[row..].iter_mut().step_by(rows).zip(values) {
            *to = value.to_bits();
        }
    }
}

/// Computes one task of a product with weights other than brain floats.
///
/// # Safety
/// The machine must have what `S` needs; each task is run once.
#[inline(always)]
pub(crate) unsafe fn task<S: Simd>(job: &Product<'_>, task: usize) {
    let (panel, first) = job.place(task);
    let at = panel * PANEL * job.weight.in_features();
    // SAFETY: as this function's; `at` is the start of a whole panel, or slicing panics.
    unsafe {
        match &job.weight.elements {
            // These have tasks of their own, `pairs`.
            Elements::Bf16(_) => {}
            Elements::Integers(weights) => {
                integers::rows_of_panel::<S::Bytes>(job, weights, panel, first);
            }
            Elements::Coded(weights) => {
                coded::rows_of_panel::<S>(job, weights, panel, first);
            }
            Elements::F16(data) => {
                rows_of_panel::<S, StoredF16>(job, data[at..].as_ptr(), panel, first);
            }
            Elements::F32(data) => {
                rows_of_panel::<S, StoredF32>(job, data[at..].as_ptr(), panel, first);
            }
        }
    }
}

/// Up to [`TASK_ROWS`] rows from `first` by one panel.
#[inline(always)]
unsafe fn rows_of_panel<S: Simd, E: Stored>(
    job: &Product<'_>,
    weights: *const E::Raw,
    panel: usize,
    first: usize,
) {
    let width = job.weight.in_features();
    let rows = TASK_ROWS.min(job.rows - first);
    assert!(job.x.len() >= job.rows * width);
    let mut totals = MaybeUninit::<[f32; TASK_ROWS * PANEL]>::uninit();
    let totals = totals.as_mut_ptr().cast::<f32>();
    for start in (0..width).step_by(CHAIN) {
        let depth = CHAIN.min(width - start);
        for row in (0..rows).step_by(TILE_ROWS) {
            let tile_rows = TILE_ROWS.min(rows - row);
            // SAFETY: a tile begins at its first row's multiple of the width, because all before it
            // are full; the panel has `width * PANEL` elements.
            unsafe {
                let tile = Tile {
                    x: job.x.as_ptr().cast::<f32>().add((first + row) * width + start * tile_rows),
                    weights: weights.add(start * PANEL),
                    totals: totals.add(row * PANEL),
                    depth,
                    begin: start == 0,
                };
                by_rows!(tile_rows, tile_of::<S, E>(&tile));
            }
        }
    }
    // SAFETY: the tiles have written `rows * PANEL` totals.
    let totals = unsafe { std::slice::from_raw_parts(totals, rows * PANEL) };
    finish(job, totals, panel, first);
}

/// One chain's worth of one tile.
struct Tile<E: Stored> {
    x: *const f32,
    weights: *const E::Raw,
    totals: *mut f32,
    depth: usize,
    /// Whether totals begin with this chain.
    begin: bool,
}

#[inline(always)]
unsafe fn tile_of<S: Simd, E: Stored, const ROWS: usize>(tile: &Tile<E>) {
    // SAFETY: as the caller's.
    unsafe {
        // One row alone has registers to spare on every instruction set.
        if ROWS == 1 || S::TILE_VECTORS == 4 {
            chains::<S, E, ROWS, 4>(tile, 0);
        } else {
            for column in (0..PANEL).step_by(LANES) {
                chains::<S, E, ROWS, 1>(tile, column);
            }
        }
    }
}

/// `ROWS` by `16 * VECTORS` chains.
#[inline(always)]
unsafe fn chains<S: Simd, E: Stored, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile<E>,
    column: usize,
) {
    // SAFETY: `x` has `depth * ROWS` elements, `weights` `depth * PANEL`, `totals` `ROWS * PANEL`,
    // and `column + 16 * VECTORS` is at most `PANEL`.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        let (mut x, mut weights) = (tile.x, tile.weights.add(column));
        for _ in 0..tile.depth {
            let mut w = [S::splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = E::load::<S>(weights.add(v * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = S::splat(*x.add(row));
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum = S::fma(value, *w, *sum);
                }
            }
            x = x.add(ROWS);
            weights = weights.add(PANEL);
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

/// Bias and epilogue.
#[inline(always)]
pub(super) fn finish(job: &Product<'_>, totals: &[f32], panel: usize, first: usize) {
    let columns = job.weight.out_features();
    let start = panel * PANEL;
    let width = PANEL.min(columns - start);
    for (row, totals) in totals.chunks_exact(PANEL).enumerate() {
        // SAFETY: rows and panels of tasks are disjoint.
        let out = unsafe { job.out.piece((first + row) * columns + start, width) };
        for (column, out) in out.iter_mut().enumerate() {
            let mut value = totals[column];
            if let Some(bias) = &job.weight.bias {
                value += bias[start + column];
            }
            *out = if job.add { *out + value } else { value };
        }
    }
}
