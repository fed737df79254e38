//! Kernels along one row: the sum that a norm needs, and the activations.

use super::vector::{LANES, Simd};
use crate::cpu::math::{GELU_CUBE, GELU_LINE, TAIL_SLOPE, TAIL_TERMS, tree};

/// The sum of squares over 16 lanes, element `i` in lane `i % 16`, then the tree.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn sum_of_squares<S: Simd>(x: &[f32]) -> f32 {
    let whole = x.chunks_exact(LANES);
    let rest = padded(whole.remainder());
    // SAFETY: every load is from a piece of 16.
    unsafe {
        let mut sum = S::splat(0.0);
        for piece in whole {
            let value = S::load(piece.as_ptr());
            sum = S::fma(value, value, sum);
        }
        let value = S::load(rest.as_ptr());
        tree(S::lanes(S::fma(value, value, sum)))
    }
}

/// `out = silu(gate) * up`; the three are equally long.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn silu_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len());
    for ((gate, up), out) in gate.chunks(LANES).zip(up.chunks(LANES)).zip(out.chunks_mut(LANES)) {
        let (gate, up) = (padded(gate), padded(up));
        // SAFETY: loads are from arrays of 16.
        let lanes = unsafe {
            let x = S::load(gate.as_ptr());
            let one = S::splat(1.0);
            // Negation by subtraction from zero would turn -0 into +0; -1 * x is exact.
            let silu = S::div(x, S::add(one, S::exp(S::mul(S::splat(-1.0), x))));
            S::lanes(S::mul(silu, S::load(up.as_ptr())))
        };
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// `out = gelu(gate) * up`, by [`crate::cpu::math::gelu`]; the three are equally long.
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn gelu_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len());
    for ((gate, up), out) in gate.chunks(LANES).zip(up.chunks(LANES)).zip(out.chunks_mut(LANES)) {
        let (gate, up) = (padded(gate), padded(up));
        // SAFETY: loads are from arrays of 16.
        let lanes = unsafe {
            let x = S::load(gate.as_ptr());
            let slope = S::fma(S::mul(x, x), S::splat(GELU_CUBE), S::splat(GELU_LINE));
            let gelu = S::div(x, S::add(S::splat(1.0), S::exp(S::mul(x, slope))));
            S::lanes(S::mul(gelu, S::load(up.as_ptr())))
        };
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// Each value its [`crate::cpu::math::gelu_exact`].
///
/// # Safety
/// The machine must have what `S` needs.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(values: &mut [f32]) {
    for piece in values.chunks_mut(LANES) {
        let padded = padded(piece);
        // SAFETY: loads are from arrays of 16.
        let lanes = unsafe {
            let (x, one) = (S::load(padded.as_ptr()), S::splat(1.0));
            let t = S::max(x, S::mul(S::splat(-1.0), x));
            let k = S::div(one, S::fma(t, S::splat(TAIL_SLOPE), one));
            let mut p = S::splat(TAIL_TERMS[0]);
            for term in &TAIL_TERMS[1..] {
                p = S::fma(p, k, S::splat(*term));
            }
            let e = S::exp(S::mul(S::mul(t, t), S::splat(-0.5)));
            let tail = S::mul(S::mul(p, k), e);
            S::lanes(S::sub(S::max(x, S::splat(0.0)), S::mul(t, tail)))
        };
        piece.copy_from_slice(&lanes[..piece.len()]);
    }
}

/// Up to 16 elements with zeros behind.
#[inline(always)]
fn padded(piece: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..piece.len()].copy_from_slice(piece);
    lanes
}
