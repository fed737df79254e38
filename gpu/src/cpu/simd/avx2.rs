//! Sixteen lanes in two AVX2 registers. Needs `avx2`, `fma` and `f16c`.

use std::arch::x86_64::*;

use super::{entry::entry_points, integers::Bytes, vector::Simd};
use crate::cpu::coded::{FP8_BITS, FP8_UNIT};

/// AVX2 with fused multiply-add and half conversions.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Two registers.
type Pair = (__m256, __m256);

// SAFETY: each method is the lane-wise operation that the trait names; the features are the
// caller's promise.
unsafe impl Simd for Avx2 {
    type V = Pair;
    type Bytes = Self;
    const TILE_VECTORS: usize = 1;
    const QUERIES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let half = |bits| {
                let wide = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits));
                _mm256_castsi256_ps(wide)
            };
            (half(_mm_loadu_si128(from.cast())), half(_mm_loadu_si128(from.add(8).cast())))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            (
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let half = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            let bytes = _mm_loadu_si128(from.cast());
            (half(bytes), half(_mm_srli_si128::<8>(bytes)))
        }
    }

    #[inline(always)]
    fn prefetch<T>(from: *const T) {
        // SAFETY: a hint, which faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let half = |words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
            (half(_mm256_loadu_si256(from.cast())), half(_mm256_loadu_si256(from.add(8).cast())))
        }
    }

    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let half = |words| _mm256_castsi256_ps(_mm256_and_si256(words, high));
            (half(_mm256_loadu_si256(from.cast())), half(_mm256_loadu_si256(from.add(8).cast())))
        }
    }

    #[inline(always)]
    unsafe fn load_field(from: *const u32, shift: u32, mask: u32) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let mask = _mm256_set1_epi32(mask.cast_signed());
            let half = |from: *const u32| {
                let words = _mm256_srl_epi32(_mm256_loadu_si256(from.cast()), shift);
                _mm256_cvtepi32_ps(_mm256_and_si256(words, mask))
            };
            (half(from), half(from.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_fp8(from: *const u32, shift: u32) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let shift = _mm_cvtsi32_si128((24 - shift).cast_signed());
            let mask = _mm256_set1_epi32(FP8_BITS.cast_signed());
            let unit = _mm256_set1_ps(FP8_UNIT);
            let half = |from: *const u32| {
                let words = _mm256_sll_epi32(_mm256_loadu_si256(from.cast()), shift);
                let bits = _mm256_and_si256(_mm256_srai_epi32::<4>(words), mask);
                _mm256_mul_ps(_mm256_castsi256_ps(bits), unit)
            };
            (half(from), half(from.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Pair) {
        // SAFETY: as the trait's.
        unsafe {
            _mm256_storeu_ps(to, value.0);
            _mm256_storeu_ps(to.add(8), value.1);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn scale(value: Pair, shifted: Pair) -> Pair {
        // SAFETY: as the trait's.
        unsafe {
            let half = |value, shifted| {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), power))
            };
            (half(value.0, shifted.0), half(value.1, shifted.1))
        }
    }
}

/// Two registers of words.
type Words = (__m256i, __m256i);

// SAFETY: as above.
unsafe impl Bytes for Avx2 {
    type S = Self;
    type W = Words;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Words {
        // SAFETY: as the trait's.
        unsafe { (_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Words {
        // SAFETY: as the trait's.
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, value: Words) {
        // SAFETY: as the trait's.
        unsafe {
            _mm256_storeu_si256(to.cast(), value.0);
            _mm256_storeu_si256(to.add(8).cast(), value.1);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Words, b: Words) -> Words {
        // SAFETY: as the trait's.
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn low(words: Words) -> Words {
        // SAFETY: as the trait's.
        unsafe {
            let mask = _mm256_set1_epi8(0xf);
            (_mm256_and_si256(words.0, mask), _mm256_and_si256(words.1, mask))
        }
    }

    #[inline(always)]
    unsafe fn high(words: Words) -> Words {
        // SAFETY: as the trait's.
        unsafe {
            let mask = _mm256_set1_epi8(0xf);
            let half = |words| _mm256_and_si256(_mm256_srli_epi32::<4>(words), mask);
            (half(words.0), half(words.1))
        }
    }

    /// By pairs of sixteen bits, which cannot overflow: bytes with even numbers, then odd ones.
    #[inline(always)]
    unsafe fn dot(sums: Words, words: Words, x: *const u32) -> Words {
        // SAFETY: as the trait's.
        unsafe {
            let x = _mm256_set1_epi32((*x).cast_signed());
            let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
            let odd_x = _mm256_srai_epi16::<8>(x);
            let half = |sums, words| {
                let low = _mm256_and_si256(words, _mm256_set1_epi16(0xff));
                let even = _mm256_madd_epi16(low, even_x);
                let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(words), odd_x);
                _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
            };
            (half(sums.0, words.0), half(sums.1, words.1))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Words) -> Pair {
        // SAFETY: as the trait's.
        unsafe { (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
    }
}

entry_points!(Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
