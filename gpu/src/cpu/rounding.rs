//! Rows of activations rounded as a checkpoint's quantization says, in plain code that all kernel
//! paths share, so that none rounds otherwise.
//!
//! A row, or a group of its elements, is divided by a scale that takes its largest magnitude to the
//! end of the range, rounded, and multiplied again. Where inputs are divided over ranks that
//! magnitude is the largest of all ranks' ([`crate::backend::Backend::input_peaks`]), so that a
//! model rounds the same numbers however it is divided.

use std::ops::Range;

use crate::{
    cpu::{
        integers::{byte, row_scale},
        math::ROUND,
    },
    quant::InputRounding,
};

/// Appends the magnitudes that a row's scales follow from.
pub(crate) fn append_peaks(rounding: InputRounding, x: &[f32], peaks: &mut Vec<f32>) {
    let first = peaks.len();
    peaks.resize(first + rounding.peaks(), 0.0);
    for (group, run) in groups(rounding, x.len()) {
        if let Some(to) = peaks.get_mut(first + group) {
            *to = peak(&x[run]);
        }
    }
}

/// Rounds a row; `peaks` are its magnitudes over all ranks, or nothing if there are no others.
pub(crate) fn round_row(rounding: InputRounding, x: &[f32], peaks: &[f32], out: &mut [f32]) {
    for (group, run) in groups(rounding, x.len()) {
        let (x, out) = (&x[run.clone()], &mut out[run]);
        let peak = || peaks.get(group).copied().unwrap_or_else(|| peak(x));
        let pairs = out.iter_mut().zip(x);
        match rounding {
            InputRounding::Exact => pairs.for_each(|(out, x)| *out = *x),
            InputRounding::Int8Token => {
                let (scale, inverse) = row_scale(x, Some(&peak()));
                pairs.for_each(|(out, x)| *out = f32::from(byte(*x, inverse)) * scale);
            }
            InputRounding::Fp8Token | InputRounding::Fp8Groups { .. } => {
                // Divided, not multiplied by an inverse: as others do it, to the bit.
                let scale = peak() / FP8_MAX;
                let divisor = if scale == 0.0 { 1.0 } else { scale };
                pairs.for_each(|(out, x)| *out = to_fp8(x / divisor) * scale);
            }
            InputRounding::Fp8Static(scale) => {
                pairs.for_each(|(out, x)| *out = to_fp8(x / scale) * scale);
            }
        }
    }
}

/// The runs of a row that have a scale of their own, each with its number among those of all ranks.
fn groups(rounding: InputRounding, width: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (size, first) = match rounding {
        InputRounding::Fp8Groups { size, first, .. } => (size, first),
        _ => (width.max(1), 0),
    };
    let numbers = first / size..(first + width).div_ceil(size);
    numbers.map(move |group| {
        let start = (group * size).max(first) - first;
        (group, start..((group + 1) * size).min(first + width) - first)
    })
}

/// The largest magnitude; not a number if one is not.
pub(crate) fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |peak, value| larger(peak, value.abs()))
}

/// The larger of two magnitudes, not a number if one is not.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// The nearest eight-bit float (e4m3), ties to even; what is beyond them becomes the last.
fn to_fp8(value: f32) -> f32 {
    const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
    const STEPS: f32 = 512.0;
    if value.is_nan() {
        return value;
    }
    let value = value.clamp(-FP8_MAX, FP8_MAX);
    if value.abs() < SMALLEST_NORMAL {
        return ((value * STEPS + ROUND) - ROUND) / STEPS;
    }
    let bits = value.to_bits();
    // Twenty bits go: half of their range and, for ties, one less than what makes the last even.
    f32::from_bits((bits + 0x7_ffff + (bits >> 20 & 1)) & !0xf_ffff)
}

const FP8_MAX: f32 = 448.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::coded::widened;

    #[test]
    fn eight_bit_floats_are_the_nearest() {
        let all: Vec<f32> = (0..0x7f).map(widened).collect();
        assert!(all.is_sorted() && all[1] == 1.0 / 512.0 && all[0x7e] == FP8_MAX);
        for (at, pair) in all.windows(2).enumerate() {
            let middle = f32::midpoint(pair[0], pair[1]);
            assert_eq!(to_fp8(pair[0]), pair[0]);
            assert_eq!(to_fp8(middle * 0.9999), pair[0], "{middle}");
            assert_eq!(to_fp8(-middle * 1.0001), -pair[1], "{middle}");
            assert_eq!(to_fp8(middle), pair[at % 2], "{middle} is a tie");
        }
        assert_eq!(to_fp8(1e9), FP8_MAX);
        assert!(to_fp8(f32::from_bits(u32::MAX)).is_nan());
    }

    #[test]
    fn groups_that_span_ranks_have_the_peak_of_all() {
        let x = [1.0, -8.0, 2.0, 3.0, 0.5, -0.25];
        let whole = InputRounding::Fp8Groups { size: 4, first: 0, inputs: 6 };
        let (mut peaks, mut rounded) = (Vec::new(), [0.0; 6]);
        append_peaks(whole, &x, &mut peaks);
        assert_eq!(peaks, [8.0, 0.5]);
        round_row(whole, &x, &[], &mut rounded);
        for (first, count) in [(0, 3), (3, 3)] {
            let part = InputRounding::Fp8Groups { size: 4, first, inputs: 6 };
            let mut own = Vec::new();
            append_peaks(part, &x[first..first + count], &mut own);
            assert!(own.iter().zip(&peaks).all(|(own, peak)| own <= peak), "{own:?}");
            let mut out = [0.0; 3];
            round_row(part, &x[first..first + count], &peaks, &mut out);
            assert_eq!(out, rounded[first..first + count]);
        }
    }
}
