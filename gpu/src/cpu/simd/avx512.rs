//! Sixteen lanes in one AVX-512 register. Needs `avx512f` and `avx512bw`.

use std::arch::x86_64::*;

use super::{
    entry::entry_points,
    integers::Bytes,
    vector::{LANES, Simd},
};
use crate::cpu::{
    coded::{FP8_BITS, FP8_UNIT},
    pairs::{BLOCK, LEAST, PAIRS, PairOrder},
};

/// AVX-512, `PAIRS` with `avx512bf16` too.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PAIRS: bool = false>;

// SAFETY: each method is the lane-wise operation that the trait names; the features are the
// caller's promise.
unsafe impl<const PAIRS: bool> Simd for Avx512<PAIRS> {
    type V = __m512;
    type Bytes = Self;
    const TILE_VECTORS: usize = 4;
    const QUERIES: usize = 8;
    const HAS_PAIRS: bool = PAIRS;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: as the trait's.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    fn prefetch<T>(from: *const T) {
        // SAFETY: a hint, which faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512, x: *const u32, words: __m512) -> __m512 {
        // SAFETY: as the trait's; the casts keep the bits.
        unsafe {
            let x: __m512bh = std::mem::transmute(_mm512_set1_epi32((*x).cast_signed()));
            _mm512_dpbf16_ps(sum, x, std::mem::transmute::<__m512, __m512bh>(words))
        }
    }

    #[inline(always)]
    unsafe fn store_pairs(to: *mut u32, high: *const u16, low: *const u16) {
        // SAFETY: as the trait's.
        unsafe {
            let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.cast()));
            let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low.cast()));
            let words = _mm512_or_si512(_mm512_slli_epi32::<16>(high), low);
            _mm512_storeu_si512(to.cast(), words);
        }
    }

    #[inline(always)]
    unsafe fn narrow_block(from: *const f32, to: *mut u32) {
        // SAFETY: as the trait's; the casts keep the bits.
        unsafe {
            let (first, second) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES)));
            let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            // Twice the bits are the magnitude without the sign.
            let least = _mm512_set1_epi16((LEAST << 1).cast_signed());
            let counts = _mm512_cmpge_epu16_mask(_mm512_add_epi16(narrow, narrow), least);
            let order = _mm512_loadu_si512(CHAINED.as_ptr().cast());
            _mm512_storeu_si512(
                to.cast(),
                _mm512_permutexvar_epi16(order, _mm512_maskz_mov_epi16(counts, narrow)),
            );
        }
    }

    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe {
            let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), high))
        }
    }

    #[inline(always)]
    unsafe fn load_field(from: *const u32, shift: u32, mask: u32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe {
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let words = _mm512_srl_epi32(_mm512_loadu_si512(from.cast()), shift);
            let mask = _mm512_set1_epi32(mask.cast_signed());
            _mm512_cvtepi32_ps(_mm512_and_si512(words, mask))
        }
    }

    #[inline(always)]
    unsafe fn load_fp8(from: *const u32, shift: u32) -> __m512 {
        // SAFETY: as the trait's.
        unsafe {
            // To the top, then the sign stays there and the rest goes to where an `f32` has it.
            let shift = _mm_cvtsi32_si128((24 - shift).cast_signed());
            let words = _mm512_sll_epi32(_mm512_loadu_si512(from.cast()), shift);
            let mask = _mm512_set1_epi32(FP8_BITS.cast_signed());
            let bits = _mm512_and_si512(_mm512_srai_epi32::<4>(words), mask);
            _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(FP8_UNIT))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        // SAFETY: as the trait's.
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn scale(value: __m512, shifted: __m512) -> __m512 {
        // SAFETY: as the trait's.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value), power))
        }
    }
}

// SAFETY: as above.
unsafe impl<const PAIRS: bool> Bytes for Avx512<PAIRS> {
    type S = Self;
    type W = __m512i;

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, value: __m512i) {
        // SAFETY: as the trait's.
        unsafe { _mm512_storeu_si512(to.cast(), value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn low(words: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_and_si512(words, _mm512_set1_epi8(0xf)) }
    }

    #[inline(always)]
    unsafe fn high(words: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_and_si512(_mm512_srli_epi32::<4>(words), _mm512_set1_epi8(0xf)) }
    }

    /// By pairs of sixteen bits, which cannot overflow: bytes with even numbers, then odd ones.
    #[inline(always)]
    unsafe fn dot(sums: __m512i, words: __m512i, x: *const u32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe {
            let x = _mm512_set1_epi32((*x).cast_signed());
            let even = _mm512_madd_epi16(
                _mm512_and_si512(words, _mm512_set1_epi16(0xff)),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(words), _mm512_srai_epi16::<8>(x));
            _mm512_add_epi32(sums, _mm512_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
}

/// Which input of a block is where in its chained words, by halves.
const CHAINED: [u16; BLOCK] = {
    let mut order = [0; BLOCK];
    let mut word = 0;
    while word < PAIRS {
        let (low, high) = PairOrder::Chained.inputs(word);
        (order[2 * word], order[2 * word + 1]) = (low as u16, high as u16);
        word += 1;
    }
    order
};

entry_points!(Avx512, #[target_feature(enable = "avx512f,avx512bw")]);
