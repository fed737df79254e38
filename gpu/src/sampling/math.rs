//! The exponential that sampling uses: multiplications, additions and bit shifts only, so that it
//! gives the same bits on every machine (a platform's own `exp` differs between library versions)
//! and the compiler can do several at once.
//!
//! Within 2 units in the last place of the true value over the range that is used, which is far
//! below the rounding of the logits themselves. `exp_negative(0)` is exactly 1.

/// e to the power of `x`, for `x <= 0`. 0 only for -inf: whatever is finite gives at least e^-87,
/// so that the smallest weight is still a normal number (subnormal ones are slow and depend on
/// machine settings) and a token that no filter removed is still one of the survivors.
#[inline]
pub(super) fn exp_negative(x: f32) -> f32 {
    let clamped = if x > SMALLEST { x } else { SMALLEST };
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the sum.
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    let rest = (clamped - power * LN_2_HIGH) - power * LN_2_LOW;
    // Taylor's series; |rest| <= ln(2) / 2, the first term left out is below 4e-9 of the sum.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * rest + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    let value = sum * f32::from_bits(exponent);
    if x == f32::NEG_INFINITY { 0.0 } else { value }
}

/// ln(2) in two parts: the first has zeros at its end, so that its product with a power is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
const ROUNDER: f32 = 12_582_912.0;
/// Below it the result would be subnormal.
const SMALLEST: f32 = -87.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_close_to_the_true_exponential() {
        for step in 0..=870_000_u32 {
            let x = -(step as f32) * 1e-4;
            let (ours, true_value) = (f64::from(exp_negative(x)), f64::from(x).exp());
            if x > SMALLEST {
                assert!((ours / true_value - 1.0).abs() < 2.5e-7, "exp({x}) = {ours}");
            }
        }
    }

    #[test]
    fn is_exact_at_the_ends() {
        assert_eq!(exp_negative(0.0), 1.0);
        assert_eq!(exp_negative(-0.0), 1.0);
        assert_eq!(exp_negative(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_negative(f32::MIN), exp_negative(SMALLEST));
    }
}
