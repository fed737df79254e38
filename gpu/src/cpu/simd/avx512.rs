//! Sixteen lanes in one AVX-512 register. Needs `avx512f` and `avx512bw`.

use std::arch::x86_64::*;

use super::{entry::entry_points, integers::Bytes, vector::Simd};
use crate::cpu::coded::{FP8_BITS, FP8_UNIT};

/// AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY: each method is the lane-wise operation that the trait names; the features are the
// caller's promise.
unsafe impl Simd for Avx512 {
    type V = __m512;
    type Bytes = Self;
    const TILE_VECTORS: usize = 4;
    const QUERIES: usize = 8;

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
unsafe impl Bytes for Avx512 {
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

entry_points!(Avx512, #[target_feature(enable = "avx512f,avx512bw")]);
