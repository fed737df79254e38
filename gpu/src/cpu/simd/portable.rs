//! Sixteen lanes in an array, for the compiler to put into whatever registers there are.
//!
//! On AArch64 this becomes NEON code. On an x86-64 without AVX2 it is slow and right: each fused
//! multiply-add is a call.

use half::{bf16, f16};

use super::{
    entry::entry_points,
    vector::{LANES, Simd},
};
use crate::cpu::math;

/// No particular instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Lanes = [f32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = f(lane);
    }
    lanes
}

// SAFETY: each method is the lane-wise operation that the trait names.
unsafe impl Simd for Portable {
    type V = Lanes;
    const TILE_VECTORS: usize = 1;
    const QUERIES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        each(|lane| bf16::from_bits(bits[lane]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        each(|lane| f16::from_bits(bits[lane]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let words = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        each(|lane| f32::from_bits(words[lane] << 16))
    }

    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let words = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        each(|lane| f32::from_bits(words[lane] & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Lanes) {
        // SAFETY: valid for 16 elements as the trait asks.
        unsafe { to.cast::<Lanes>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| a[lane] / b[lane])
    }

    #[inline(always)]
    unsafe fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        each(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| math::max(a[lane], b[lane]))
    }

    #[inline(always)]
    unsafe fn min(a: Lanes, b: Lanes) -> Lanes {
        each(|lane| math::min(a[lane], b[lane]))
    }

    #[inline(always)]
    unsafe fn scale(value: Lanes, shifted: Lanes) -> Lanes {
        each(|lane| {
            let power = shifted[lane].to_bits() << 23;
            f32::from_bits(value[lane].to_bits().wrapping_add(power))
        })
    }
}

entry_points!(Portable,);
