//! Brain floats from rows, as files have them, to a panel of pairs, sixteen rows by one block of
//! inputs at a time, in registers. Needs `avx512f` and `avx512bw`.
//!
//! It is quick enough to be done again for each product: some 14 GB/s of one core on a Zen 4, where
//! weights that are packed come at 32 GB/s from memory.

use std::arch::x86_64::*;

use crate::cpu::{
    packed::PANEL,
    pairs::{BLOCK, LEAST, PAIRS, PairOrder, pack_block},
    simd::vector::LANES,
};
use crate::dtype::Dtype;

/// Packs up to 64 rows of equally many brain floats into a panel; lanes beyond the last row become
/// zeros.
///
/// # Safety
/// The machine must have this module's features.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack(order: PairOrder, rows: &[&[u8]], out: &mut [u32]) {
    let bytes = rows.first().map_or(0, |row| row.len());
    let whole = bytes / BLOCK_BYTES;
    assert!(rows.len() <= PANEL && rows.iter().all(|row| row.len() == bytes));
    assert!(out.len() >= bytes.div_ceil(BLOCK_BYTES) * PAIRS * PANEL);
    for lane in (0..PANEL).step_by(LANES) {
        let some = rows.get(lane..rows.len().min(lane + LANES)).unwrap_or_default();
        let next = rows.get(lane + LANES..rows.len().min(lane + 2 * LANES)).unwrap_or_default();
        for block in 0..whole {
            ask_for(next, block, whole);
            // SAFETY: every row has `whole` blocks, and there is a block of words for each.
            unsafe {
                let words = transpose(some, block * BLOCK_BYTES);
                let to = out.as_mut_ptr().add(block * PAIRS * PANEL + lane);
                match order {
                    PairOrder::Natural => store(to, &words),
                    PairOrder::Chained => store(to, &chain(&words)),
                }
            }
        }
    }
    if whole * BLOCK_BYTES < bytes {
        let last = &mut out[whole * PAIRS * PANEL..][..PAIRS * PANEL];
        last.fill(0);
        for (lane, row) in rows.iter().enumerate() {
            pack_block(order, (row, Dtype::Bf16), whole, lane, last);
        }
    }
}

/// Asks for the `block`th part of the rows that come next, from front to back: sixteen rows read
/// side by side are more than the processor foresees.
#[inline(always)]
fn ask_for(next: &[&[u8]], block: usize, blocks: usize) {
    // One part of each row has as many lines as there are rows.
    let at = block * LANES;
    if let Some(row) = next.get(at / blocks) {
        let from = row.as_ptr().wrapping_add(at % blocks * BLOCK_BYTES);
        for line in 0..LANES {
            // SAFETY: a hint, which faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line * BLOCK_BYTES).cast()) };
        }
    }
}

/// The words at byte `at` of up to sixteen rows, `[word][row]`, without numbers that count as zero.
#[inline(always)]
unsafe fn transpose(rows: &[&[u8]], at: usize) -> [__m512i; PAIRS] {
    // SAFETY: features as promised by the caller; every row has a block at `at`.
    unsafe {
        let zero = _mm512_setzero_si512();
        let least = _mm512_set1_epi16((LEAST << 1).cast_signed());
        let mut r = [zero; PAIRS];
        for (r, row) in r.iter_mut().zip(rows) {
            let values = _mm512_loadu_si512(row.as_ptr().add(at).cast());
            // Twice the bits are the magnitude without the sign.
            let counts = _mm512_cmpge_epu16_mask(_mm512_add_epi16(values, values), least);
            *r = _mm512_maskz_mov_epi16(counts, values);
        }
        let mut t = [zero; PAIRS];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        // Then `r[4 * g + c]` has, in its quarter `q`, word `4 * q + c` of rows `4 * g` and on.
        for i in 0..4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for c in 0..4 {
            let a = _mm512_shuffle_i32x4::<0x88>(r[c], r[4 + c]);
            let b = _mm512_shuffle_i32x4::<0xdd>(r[c], r[4 + c]);
            let d = _mm512_shuffle_i32x4::<0x88>(r[8 + c], r[12 + c]);
            let e = _mm512_shuffle_i32x4::<0xdd>(r[8 + c], r[12 + c]);
            t[c] = _mm512_shuffle_i32x4::<0x88>(a, d);
            t[8 + c] = _mm512_shuffle_i32x4::<0xdd>(a, d);
            t[4 + c] = _mm512_shuffle_i32x4::<0x88>(b, e);
            t[12 + c] = _mm512_shuffle_i32x4::<0xdd>(b, e);
        }
        t
    }
}

/// Words in natural order to chained ones: of two neighbors the lower halves make one word, the
/// upper halves another, the first of them above.
#[inline(always)]
unsafe fn chain(words: &[__m512i; PAIRS]) -> [__m512i; PAIRS] {
    // SAFETY: features as promised by the caller.
    unsafe {
        let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        let mut out = [_mm512_setzero_si512(); PAIRS];
        for step in 0..PAIRS / 2 {
            let (a, b) = (words[2 * step], words[2 * step + 1]);
            let low = _mm512_andnot_si512(high, b);
            out[step] = _mm512_or_si512(_mm512_slli_epi32::<16>(a), low);
            let low = _mm512_srli_epi32::<16>(b);
            out[PAIRS / 2 + step] = _mm512_or_si512(_mm512_and_si512(a, high), low);
        }
        out
    }
}

/// Sixteen lanes of a block of a panel.
#[inline(always)]
unsafe fn store(to: *mut u32, words: &[__m512i; PAIRS]) {
    for (word, value) in words.iter().enumerate() {
        // SAFETY: the block has a row of 64 words for each, of which `to` begins sixteen.
        unsafe { _mm512_storeu_si512(to.add(word * PANEL).cast(), *value) };
    }
}

const BLOCK_BYTES: usize = BLOCK * 2;
