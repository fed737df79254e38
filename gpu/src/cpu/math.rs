//! The scalar functions that every path computes alike, operation for operation, so that results
//! are equal to the bit: comparison, exponential, the tree that ends a sum over lanes.
//!
//! Vector code repeats the same IEEE operations in the same order; nothing here depends on the C
//! library except `mul_add`, which rounds once wherever it runs.

/// The greater of two, the second if they do not compare: what `maxps` does.
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The lesser of two, the second if they do not compare: what `minps` does.
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `e` to the `x`, within 2 units in the last place for `x` in [`EXP_MIN`] to [`EXP_MAX`]; outside,
/// the value at the nearer end. Never infinite, never zero, never subnormal; NaN gives NaN.
pub(crate) fn exp(x: f32) -> f32 {
    let x = min(EXP_MAX, max(EXP_MIN, x));
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = EXP_TERMS[0];
    for term in &EXP_TERMS[1..] {
        p = p.mul_add(r, *term);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `x / (1 + e^-x)`.
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The Gaussian error linear unit's approximation by a hyperbolic tangent, `x * (1 + tanh(u)) / 2`
/// for `u = sqrt(2 / pi) * (x + 0.044715 x^3)`, as `x / (1 + e^-2u)`, which is the same number.
pub(crate) fn gelu(x: f32) -> f32 {
    x / (1.0 + exp(x * (x * x).mul_add(GELU_CUBE, GELU_LINE)))
}

/// The Gaussian error linear unit, `x` times the share of a normal distribution below `x`, within
/// some 1e-7: `max(x, 0)` less `|x|` times the share beyond `|x|`. That share is `e^(-x^2 / 2)`
/// times a polynomial in `1 / (1 + s |x|)`, of relative error 1.5e-7 (a least-squares fit, weighted
/// until its errors were even).
pub(crate) fn gelu_exact(x: f32) -> f32 {
    let t = max(x, -x);
    let k = 1.0 / t.mul_add(TAIL_SLOPE, 1.0);
    let mut p = TAIL_TERMS[0];
    for term in &TAIL_TERMS[1..] {
        p = p.mul_add(k, *term);
    }
    max(x, 0.0) - t * (p * k * exp(t * t * -0.5))
}

/// The hyperbolic tangent, within some 1e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// Adds 16 lanes: lane `i` takes lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
pub(crate) fn tree(mut lanes: [f32; 16]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The sum of a row: element `i` in lane `i % 16`, lanes added as a tree. Plain additions, which
/// compilers turn into vectors without changing a bit.
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for piece in x.chunks(16) {
        lanes.iter_mut().zip(piece).for_each(|(lane, x)| *lane += x);
    }
    tree(lanes)
}

/// `s` of [`gelu_exact`].
pub(crate) const TAIL_SLOPE: f32 = 0.3;
/// The polynomial's coefficients, that of k^8 first; it has no constant.
pub(crate) const TAIL_TERMS: [f32; 8] = [
    0.035_674_12,
    -0.157_200_18,
    0.206_348_21,
    -0.053_678_52,
    0.128_558_8,
    0.099_914_38,
    0.120_753_81,
    0.119_629_31,
];
/// `-2 * sqrt(2 / pi)`, by which the exponent of [`gelu`] grows with its argument.
pub(crate) const GELU_LINE: f32 = -1.595_769;
/// 0.044715 times that, by which it grows with the cube.
pub(crate) const GELU_CUBE: f32 = -0.071_354_81;
/// Below this [`exp`] does not fall further: the smallest whose result is a normal number.
pub(crate) const EXP_MIN: f32 = -87.3;
/// Above this [`exp`] does not grow further.
pub(crate) const EXP_MAX: f32 = 88.0;
/// 1.5 * 2^23.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// The natural logarithm of 2 in two parts; the first has few enough bits that `n` times it is
/// exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
/// The rest of it.
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of r^7 down to r^2 of a polynomial for e^r on [-ln 2 / 2, ln 2 / 2].
pub(crate) const EXP_TERMS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        let mut worst = 0.0f64;
        for step in 0..2_000_000u32 {
            let x = EXP_MIN + (EXP_MAX - EXP_MIN) * (step as f32 / 2_000_000.0);
            let truth = f64::from(x).exp();
            let unit = f64::from(f32::from_bits((truth as f32).to_bits() + 1) - truth as f32);
            worst = worst.max((f64::from(exp(x)) - truth).abs() / unit);
        }
        assert!(worst < 2.0, "{worst} units");
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), exp(EXP_MIN));
        assert_eq!(exp(f32::INFINITY), exp(EXP_MAX));
        assert!(exp(EXP_MIN).is_normal() && exp(EXP_MAX).is_normal());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn functions_made_of_exp_are_near_to_their_definitions() {
        for step in -4000..4000 {
            let x = step as f32 / 250.0;
            let wide = f64::from(x);
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "{x}");
            assert!((f64::from(soft_cap(x, 5.0)) - 5.0 * (wide / 5.0).tanh()).abs() < 1e-6, "{x}");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
            let truth = wide * (1.0 + inner.tanh()) / 2.0;
            assert!((f64::from(gelu(x)) - truth).abs() < 1e-6 * (1.0 + truth.abs()), "{x}");
            let truth = wide * (1.0 + error_function(wide / 2f64.sqrt())) / 2.0;
            assert!((f64::from(gelu_exact(x)) - truth).abs() < 3e-7 * (1.0 + truth.abs()), "{x}");
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-1e30)), (0.0, 1.0, -1.0));
        assert_eq!((gelu_exact(0.0), gelu_exact(1e9), gelu_exact(-1e9)), (0.0, 1e9, 0.0));
        assert!(gelu_exact(f32::NAN).is_nan());
        assert!(soft_cap(f32::NAN, 5.0).is_nan());
    }

    /// By its series of terms of one sign, which loses nothing.
    fn error_function(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..2000 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    #[test]
    fn tree_adds_halves() {
        let lanes = std::array::from_fn(|lane| lane as f32);
        assert_eq!(tree(lanes), 120.0);
        let row: Vec<f32> = (0..37).map(|x| x as f32).collect();
        assert_eq!(sum(&row), 666.0);
    }
}
