//! Sixteen `f32` lanes, however many registers they take: the one vocabulary that all kernels are
//! written in, so that a kernel exists once and has one order of arithmetic.
//!
//! Every method is one IEEE operation per lane (a fused multiply-add rounds once), so
//! implementations cannot differ in a bit. They are `inline(always)` because they take on the
//! instruction set of the entry point that they are compiled into.

use super::integers::Bytes;
use crate::cpu::math::{EXP_MAX, EXP_MIN, EXP_TERMS, LN2_HIGH, LN2_LOW, ROUND};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen lanes of one instruction set.
///
/// # Safety
/// Every method may use instructions that the machine must have; pointers must be valid for 16
/// elements (need not be aligned).
pub(crate) unsafe trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Words of bytes in as many registers.
    type Bytes: Bytes<S = Self>;
    /// Vectors of a product's tile beside its 6 rows: how many accumulators fit the registers.
    const TILE_VECTORS: usize;
    /// Queries that one attention tile takes.
    const QUERIES: usize;
    /// Whether those are more than four; else the kernels for more are not even compiled.
    const IS_WIDE: bool = Self::QUERIES > 4;
    /// Whether it multiplies pairs of brain floats; else the methods for those are never called.
    const HAS_PAIRS: bool = false;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Widens brain floats.
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    /// Widens IEEE halves.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Widens signed bytes.
    unsafe fn load_i8(from: *const i8) -> Self::V;
    /// Widens the brain floats in the lower halves of sixteen words.
    unsafe fn load_low(from: *const u32) -> Self::V;
    /// Widens those in the upper halves.
    unsafe fn load_high(from: *const u32) -> Self::V;
    /// A field of each of sixteen words: the bits of `mask`, `shift` above the lowest.
    unsafe fn load_field(from: *const u32, shift: u32, mask: u32) -> Self::V;
    /// Widens the eight-bit floats (e4m3) of sixteen words, `shift` above the lowest bit.
    unsafe fn load_fp8(from: *const u32, shift: u32) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where `a > b`, else `b`.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `a < b`, else `b`.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The bits of `value` plus the bits of `shifted` moved 23 up: scales by a power of two.
    unsafe fn scale(value: Self::V, shifted: Self::V) -> Self::V;

    /// `sum` after the products of 16 words of pairs with the word `x`: of the upper halves, then
    /// of the lower ones, each rounded once.
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::V, x: *const u32, words: Self::V) -> Self::V {
        let _ = (x, words);
        sum
    }

    /// Stores 16 words of two rows of brain floats, `high` in their upper halves.
    #[inline(always)]
    unsafe fn store_pairs(to: *mut u32, high: *const u16, low: *const u16) {
        let _ = (to, high, low);
    }

    /// Rounds a block of 32 numbers and stores it as 16 chained words
    /// ([`crate::cpu::pairs::narrow`]).
    #[inline(always)]
    unsafe fn narrow_block(from: *const f32, to: *mut u32) {
        let _ = (from, to);
    }

    /// Asks for the line at `from` to be brought into the second-level cache; any address will do.
    #[inline(always)]
    fn prefetch<T>(from: *const T) {
        let _ = from;
    }

    /// [`crate::cpu::math::exp`] in every lane.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: as this trait's.
        unsafe {
            let x = Self::min(Self::splat(EXP_MAX), Self::max(Self::splat(EXP_MIN), x));
            let round = Self::splat(ROUND);
            let shifted = Self::fma(x, Self::splat(std::f32::consts::LOG2_E), round);
            let n = Self::sub(shifted, round);
            let r = Self::fma(n, Self::splat(-LN2_HIGH), x);
            let r = Self::fma(n, Self::splat(-LN2_LOW), r);
            let mut p = Self::splat(EXP_TERMS[0]);
            for term in &EXP_TERMS[1..] {
                p = Self::fma(p, r, Self::splat(*term));
            }
            let y = Self::add(Self::fma(p, Self::mul(r, r), r), Self::splat(1.0));
            Self::scale(y, shifted)
        }
    }

    /// The lanes as an array.
    #[inline(always)]
    unsafe fn lanes(value: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: as this trait's; the array has 16 elements.
        unsafe { Self::store(lanes.as_mut_ptr(), value) };
        lanes
    }
}

/// A stored element type, read sixteen at a time.
///
/// # Safety
/// As [`Simd`].
pub(crate) unsafe trait Stored: Copy + Send + Sync {
    /// How it lies in memory.
    type Raw: Copy + Send + Sync;
    /// Whether each key and value has a scale.
    const IS_SCALED: bool = false;
    /// Whether products are those of pairs of brain floats.
    const IS_PAIRED: bool = false;
    unsafe fn load<S: Simd>(from: *const Self::Raw) -> S::V;
}

/// Brain floats.
#[derive(Clone, Copy)]
pub(crate) struct StoredBf16;
/// IEEE halves.
#[derive(Clone, Copy)]
pub(crate) struct StoredF16;
/// Singles.
#[derive(Clone, Copy)]
pub(crate) struct StoredF32;
/// Bytes with scales.
#[derive(Clone, Copy)]
pub(crate) struct StoredInt8;

// SAFETY: forwards to the vector's own loads.
unsafe impl Stored for StoredBf16 {
    type Raw = u16;
    const IS_PAIRED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: as the trait's.
        unsafe { S::load_bf16(from) }
    }
}

// SAFETY: forwards to the vector's own loads.
unsafe impl Stored for StoredF16 {
    type Raw = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: as the trait's.
        unsafe { S::load_f16(from) }
    }
}

// SAFETY: forwards to the vector's own loads.
unsafe impl Stored for StoredF32 {
    type Raw = f32;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: as the trait's.
        unsafe { S::load(from) }
    }
}

// SAFETY: forwards to the vector's own loads.
unsafe impl Stored for StoredInt8 {
    type Raw = i8;
    const IS_SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const i8) -> S::V {
        // SAFETY: as the trait's.
        unsafe { S::load_i8(from) }
    }
}
