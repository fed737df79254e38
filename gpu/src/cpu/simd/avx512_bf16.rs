//! The instruction that multiplies pairs of brain floats, `VDPBF16PS`. Needs `avx512f`,
//! `avx512bw` and `avx512bf16`.
//!
//! It adds the product of the upper halves and then that of the lower ones, each rounded once, as
//! two multiply-adds do; so two steps of a chain are one instruction when they share a word
//! ([`PairOrder::Chained`]).

use std::arch::x86_64::*;

use super::{
    attention::{self, Attention},
    avx512::Avx512,
    pairs::{Meet, rows_of_panel, spread},
    product::Product,
};
use crate::cpu::pairs::{PAIRS, PairOrder};

/// Pairs as they are.
pub(crate) struct Paired;

// SAFETY: loads 16 words and computes with registers; the features are the caller's promise.
unsafe impl Meet for Paired {
    type S = Avx512;
    const ORDER: PairOrder = PairOrder::Chained;
    const STEPS: usize = PAIRS / 2;
    const X_WORDS: usize = PAIRS;

    #[inline(always)]
    fn at(chain: usize, step: usize) -> (usize, usize) {
        (chain * Self::STEPS + step, chain * Self::STEPS + step)
    }

    #[inline(always)]
    unsafe fn weights(from: *const u32, _chain: usize) -> __m512 {
        // SAFETY: as the trait's.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn step(x: *const u32, weights: __m512, sum: __m512) -> __m512 {
        // SAFETY: as the trait's; the casts keep the bits.
        unsafe {
            let x: __m512bh = std::mem::transmute(_mm512_set1_epi32((*x).cast_signed()));
            let weights: __m512bh = std::mem::transmute(weights);
            _mm512_dpbf16_ps(sum, x, weights)
        }
    }
}

/// One task of a product by a panel of chained pairs.
///
/// # Safety
/// The machine must have this module's features; each task is run once.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn pairs(job: &Product<'_>, weights: &[u32], task: usize) {
    let (panel, first) = job.place(task);
    // SAFETY: features as promised by the caller.
    unsafe { rows_of_panel::<Paired>(job, weights, panel, first) }
}

/// [`spread`] for this kernel.
///
/// # Safety
/// The machine must have this module's features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn spread_pairs(x: &[f32], width: usize, out: &mut [u32]) {
    spread::<Paired>(x, width, out);
}

/// One task of attention, with brain floats multiplied by pairs.
///
/// # Safety
/// The machine must have this module's features; each task is run once.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn attention(job: &Attention<'_>, task: usize) {
    // SAFETY: features as promised by the caller.
    unsafe { attention::task::<Avx512<true>>(job, task) }
}
