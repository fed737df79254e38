//! Many products of different weights as one operation: their inputs are laid out together, then
//! their tasks are shared out together, so that small products keep all threads busy.
//!
//! Each is computed exactly as it would be alone.

use super::{
    isa::Isa,
    pool::{Pieces, Pool},
    product::Product,
};
use crate::{
    backend::PreparedLinear,
    cpu::{aligned::Aligned, packed::CpuLinear},
    error::DeviceError,
};

/// One of the products: so many rows of the input, which follow those of the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) weight: &'a CpuLinear,
    pub(crate) rows: usize,
}

/// A tile of rows that is laid out as one task.
struct Tile<'a> {
    weight: &'a CpuLinear,
    /// Elements of the input.
    from: (usize, usize),
    /// Words of what is laid out.
    to: (usize, usize),
}

/// `out = x * weight^T` for each group's rows of `x`, all of one width, into the same rows of
/// `out`, of another. Both hold exactly the groups' rows.
pub(crate) fn products(
    isa: Isa,
    (pool, laid_out): (&mut Pool, &mut Aligned<u32>),
    x: &[f32],
    groups: &[Group<'_>],
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let mut tiles = Vec::new();
    let (mut read, mut written) = (0, 0);
    for group in groups {
        let (width, words) = (group.weight.in_features(), isa.row_words(group.weight));
        let tile = isa.tile_rows(group.weight);
        for row in (0..group.rows).step_by(tile) {
            let rows = tile.min(group.rows - row);
            let (from, to) = ((read, rows * width), (written, rows * words));
            tiles.push(Tile { weight: group.weight, from, to });
            read += rows * width;
            written += rows * words;
        }
    }
    laid_out.reserve(written)?;
    let places = Pieces::new(&mut laid_out[..written]);
    pool.run(tiles.len(), &|task| {
        let Tile { weight, from, to } = &tiles[task];
        // SAFETY: tiles were numbered one after the other above, and each is one task.
        let out = unsafe { places.piece(to.0, to.1) };
        isa.lay_out(weight, &x[from.0..][..from.1], &[], out);
    });
    let mut jobs = Vec::with_capacity(groups.len());
    let (mut laid_out, mut out) = (&laid_out[..written], out);
    for Group { weight, rows } in groups.iter().copied().filter(|group| group.rows > 0) {
        let (own, rest) = laid_out.split_at(rows * isa.row_words(weight));
        let (own_out, rest_out) = out.split_at_mut(rows * weight.out_features());
        (laid_out, out) = (rest, rest_out);
        jobs.push(Product { x: own, rows, weight, add: false, out: Pieces::new(own_out) });
    }
    isa.products(pool, &jobs);
    Ok(())
}
