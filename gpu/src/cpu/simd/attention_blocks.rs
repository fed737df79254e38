//! Where a task of attention finds keys and values: blocks lie anywhere in the pool.

use super::{
    attention::{CHUNK, Pairs},
    vector::Stored,
};
use crate::kv::pool::TILE;

/// The keys and values a chunk after `position`, for the pairs that come first; else, and behind
/// the last position, some that are at hand.
#[inline(always)]
pub(super) fn next_tile<E: Stored>(
    pairs: &Pairs<'_, E>,
    first: usize,
    position: usize,
) -> (*const E::Raw, *const E::Raw) {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let ahead = position + CHUNK;
    let next = if first == 0 && ahead < pairs.end { ahead } else { position };
    let (block, offset) = (next / size, next % size / TILE * TILE);
    let start = pairs.data.as_ptr().wrapping_add(block_start(pairs, block));
    let keys = start.wrapping_add(offset * layout.head_dim);
    (keys, start.wrapping_add(layout.values + offset * layout.value_stride))
}

/// A block of this task's sequence.
#[inline(always)]
pub(super) fn id<E: Stored>(pairs: &Pairs<'_, E>, block: usize) -> usize {
    let id = pairs.table[block] as usize;
    assert!(id < pairs.job.kv.layout.blocks);
    id
}

/// Where a block's elements of this task's head begin.
#[inline(always)]
pub(super) fn block_start<E: Stored>(pairs: &Pairs<'_, E>, block: usize) -> usize {
    pairs.job.kv.layout.head(pairs.job.layer, id(pairs, block), pairs.kv_head)
}

/// The value rows at `from..to` of a chunk.
#[inline(always)]
pub(super) fn value_rows<E: Stored>(
    pairs: &Pairs<'_, E>,
    start: usize,
    (from, to): (usize, usize),
) -> [*const E::Raw; CHUNK] {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let mut rows = [std::ptr::null(); CHUNK];
    let mut at = from;
    while at < to {
        let (block, offset) = ((start + at) / size, (start + at) % size);
        let count = (size - offset).min(to - at);
        let first = block_start(pairs, block) + layout.values + offset * layout.value_stride;
        let values = &pairs.data[first..first + count * layout.value_stride];
        for (row, values) in rows[at..].iter_mut().zip(values.chunks_exact(layout.value_stride)) {
            *row = values.as_ptr();
        }
        at += count;
    }
    rows
}

/// The scales of the values at `from..to` of a chunk, and zeros.
#[inline(always)]
pub(super) fn value_scales<E: Stored>(
    pairs: &Pairs<'_, E>,
    start: usize,
    (from, to): (usize, usize),
) -> [f32; CHUNK] {
    let layout = &pairs.job.kv.layout;
    let size = pairs.job.kv.spec().block_size;
    let mut scales = [0.0; CHUNK];
    let mut at = from;
    while at < to {
        let (block, offset) = ((start + at) / size, (start + at) % size);
        let count = (size - offset).min(to - at);
        let first = layout.scales(pairs.job.layer, id(pairs, block), pairs.kv_head);
        let first = first + layout.scale_stride + offset;
        scales[at..at + count].copy_from_slice(&pairs.job.kv.scales[first..first + count]);
        at += count;
    }
    scales
}
