//! Loops that do one thing as fast as the machine can: multiply registers, or read memory. What
//! they reach is the limit that kernels are held against.
//!
//! Chains of operations are apart from each other, as many as fill the processor's pipelines, and
//! what they come to is handed back, so that nothing is left out.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;

use super::vector::{LANES, Simd};

/// Chains of a loop that has instructions of its own: twelve cover a latency of six with two units.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 12;

/// Multiply-adds from registers; gives their sum and how many operations (two each) they were.
#[inline(always)]
pub(crate) unsafe fn multiply_add<S: Simd>(rounds: usize) -> (f32, usize) {
    // SAFETY: features as promised by the caller; arrays have sixteen elements.
    unsafe {
        let start: [f32; LANES] = black_box([1.5; LANES]);
        let (factor, add) = (S::load(black_box(start).as_ptr()), S::load(start.as_ptr()));
        // Chains that begin alike could be made one.
        let mut chains = [add; 8];
        for (number, chain) in chains.iter_mut().enumerate() {
            *chain = S::splat(black_box(number as f32));
        }
        for _ in 0..rounds {
            for chain in &mut chains[..S::QUERIES] {
                *chain = S::fma(*chain, factor, add);
            }
        }
        let sum = chains[1..].iter().fold(chains[0], |sum, chain| S::add(sum, *chain));
        (S::lanes(sum)[0], 2 * LANES * S::QUERIES * rounds)
    }
}

/// The sum of some memory, a line at a time.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(memory: &[f32]) -> f32 {
    const AT_ONCE: usize = 4;
    // SAFETY: features as promised by the caller; each piece is whole.
    unsafe {
        let mut sums = [S::splat(0.0); AT_ONCE];
        for piece in memory.chunks_exact(AT_ONCE * LANES) {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::load(piece.as_ptr().add(at * LANES)));
            }
        }
        let sum = sums[1..].iter().fold(sums[0], |sum, other| S::add(sum, *other));
        S::lanes(sum)[0]
    }
}

/// Products of pairs of brain floats, `VDPBF16PS`.
///
/// # Safety
/// The machine must have AVX512_BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn pairs(rounds: usize) -> (f32, usize) {
    // SAFETY: brain floats have the bits of the words that they are read as.
    let word =
        |bits: i32| unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(bits)) };
    let (a, b) = (word(black_box(0x3f80_3f80)), word(black_box(0x3f80_3f00)));
    let mut chains = [_mm512_setzero_ps(); CHAINS];
    for (number, chain) in chains.iter_mut().enumerate() {
        *chain = _mm512_set1_ps(black_box(number as f32));
    }
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = _mm512_dpbf16_ps(*chain, a, b);
        }
    }
    let sum = chains.iter().fold(_mm512_setzero_ps(), |sum, chain| _mm512_add_ps(sum, *chain));
    (_mm512_cvtss_f32(sum), 2 * 2 * LANES * CHAINS * rounds)
}

/// Products of bytes, `VPDPBUSD`.
///
/// # Safety
/// The machine must have AVX512_VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn bytes(rounds: usize) -> (f32, usize) {
    let (a, b) = (_mm512_set1_epi32(black_box(0x0101_0101)), _mm512_set1_epi32(black_box(0x0201)));
    let mut chains = [_mm512_setzero_si512(); CHAINS];
    for (number, chain) in chains.iter_mut().enumerate() {
        *chain = _mm512_set1_epi32(black_box(number as i32));
    }
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = _mm512_dpbusd_epi32(*chain, a, b);
        }
    }
    let sum = chains.iter().fold(_mm512_setzero_si512(), |sum, of| _mm512_add_epi32(sum, *of));
    (_mm512_cvtsi512_si32(sum) as f32, 4 * 2 * LANES * CHAINS * rounds)
}
