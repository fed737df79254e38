//! The instruction that adds four products of bytes, `VPDPBUSD`. Needs `avx512f`, `avx512bw` and
//! `avx512vnni`.

use std::arch::x86_64::*;

use super::{
    avx512::Avx512,
    integers::{Bytes, rows_of_panel},
    product::Product,
};
use crate::cpu::packed::Integers;

/// As [`Avx512`], with this instruction.
pub(crate) struct Vnni;

// SAFETY: forwards to [`Avx512`] but for one instruction, which is the caller's promise too.
unsafe impl Bytes for Vnni {
    type S = Avx512;
    type W = __m512i;

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::splat(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::load(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, value: __m512i) {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::store(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::add(a, b) }
    }

    #[inline(always)]
    unsafe fn low(words: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::low(words) }
    }

    #[inline(always)]
    unsafe fn high(words: __m512i) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::high(words) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, words: __m512i, x: *const u32) -> __m512i {
        // SAFETY: as the trait's.
        unsafe { _mm512_dpbusd_epi32(sums, words, _mm512_set1_epi32((*x).cast_signed())) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { <Avx512 as Bytes>::to_floats(sums) }
    }
}

/// One task of a product by integers.
///
/// # Safety
/// The machine must have this module's features; each task is run once.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn product(job: &Product<'_>, weights: &Integers, task: usize) {
    let (panel, first) = job.place(task);
    // SAFETY: features as promised by the caller.
    unsafe { rows_of_panel::<Vnni>(job, weights, panel, first) }
}
