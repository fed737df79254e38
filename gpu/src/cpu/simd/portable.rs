//! Sixteen lanes in an array, for the compiler to put into whatever registers there are.
//!
//! On AArch64 this becomes NEON code. On an x86-64 without AVX2 it is slow and right: each fused
//! multiply-add is a call.

use half::{bf16, f16};

use super::{
    entry::entry_points,
    integers::Bytes,
    vector::{LANES, Simd},
};
use crate::cpu::{coded::widened, math};

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
    type Bytes = Self;
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
    unsafe fn load_i8(from: *const i8) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let bytes = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        each(|lane| f32::from(bytes[lane]))
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
    unsafe fn load_field(from: *const u32, shift: u32, mask: u32) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let words = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        each(|lane| (words[lane] >> shift & mask) as f32)
    }

    #[inline(always)]
    unsafe fn load_fp8(from: *const u32, shift: u32) -> Lanes {
        // SAFETY: valid for 16 elements as the trait asks.
        let words = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        each(|lane| widened(words[lane] >> shift))
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

// SAFETY: each method is the lane-wise operation that the trait names.
unsafe impl Bytes for Portable {
    type S = Self;
    type W = [i32; LANES];

    #[inline(always)]
    unsafe fn splat(value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> [i32; LANES] {
        // SAFETY: valid for 16 elements as the trait asks.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, value: [i32; LANES]) {
        // SAFETY: valid for 16 elements as the trait asks.
        unsafe { to.cast::<[i32; LANES]>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn add(a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    unsafe fn low(words: [i32; LANES]) -> [i32; LANES] {
        words.map(|word| word & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn high(words: [i32; LANES]) -> [i32; LANES] {
        words.map(|word| word >> 4 & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn dot(sums: [i32; LANES], words: [i32; LANES], x: *const u32) -> [i32; LANES] {
        // SAFETY: valid as the trait asks.
        let x = unsafe { *x }.to_le_bytes().map(u8::cast_signed);
        std::array::from_fn(|lane| {
            let bytes = words[lane].to_le_bytes();
            let products = bytes.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(x));
            products.fold(sums[lane], i32::wrapping_add)
        })
    }

    #[inline(always)]
    unsafe fn to_floats(sums: [i32; LANES]) -> Lanes {
        each(|lane| sums[lane] as f32)
    }
}

entry_points!(Portable,);
