//! Weights as integers of eight or four bits, and rows of activations as integers of eight: what
//! they mean, how they are made from numbers, and how they lie in memory.
//!
//! A weight is `(q - zero) * scale` with an unsigned `q`: eight bits with zero 128 and one scale
//! for each output, or four bits with zero 8 and one for each output and [`GROUP`] inputs. An
//! activation is `q * scale` with a signed `q` and one scale for its row, chosen when the product
//! is computed ("dynamic, per token"). So the sum over a group is one of whole numbers, exact in
//! any order: `sum(q_w * q_x) - zero * sum(q_x)`.
//!
//! Inputs lie in blocks of 64, four to a word, outputs in panels of 64. A block of eight-bit
//! weights is 16 words deep, word `i` with inputs `4i` to `4i + 3`, as AMX and VNNI want it; one of
//! four-bit weights 8 words, whose bytes have input `4i + b` below and `32 + 4i + b` above.

use half::bf16;

use crate::{
    cpu::{math::ROUND, packed::PANEL},
    dtype::Dtype,
};

/// Inputs of a block, and of a group that shares a scale of four-bit weights.
pub(crate) const GROUP: usize = 64;
/// Words of a block of bytes.
pub(crate) const WORDS: usize = GROUP / 4;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    /// One scale per output.
    Eight,
    /// One scale per output and group.
    Four,
}

impl Bits {
    /// Words of a block of one output.
    pub(crate) const fn words(self) -> usize {
        match self {
            Self::Eight => WORDS,
            Self::Four => WORDS / 2,
        }
    }

    /// What stands for zero.
    pub(crate) const fn zero(self) -> i32 {
        match self {
            Self::Eight => 128,
            Self::Four => 8,
        }
    }

    /// Word of input `input` of a block, and how far it must be moved down.
    pub(crate) const fn place(self, input: usize) -> (usize, u32) {
        let byte = input as u32 % 4 * 8;
        match self {
            Self::Eight => (input / 4, byte),
            Self::Four if input < GROUP / 2 => (input / 4, byte),
            Self::Four => (input / 4 - WORDS / 2, byte + 4),
        }
    }

    /// The bits of one weight.
    pub(crate) const fn mask(self) -> u32 {
        match self {
            Self::Eight => 0xff,
            Self::Four => 0xf,
        }
    }
}

/// The scale for weights whose furthest from zero is `extreme`, as it is stored.
pub(crate) fn scale_of(bits: Bits, extreme: f32) -> f32 {
    match bits {
        Bits::Eight => extreme.abs() / 127.0,
        // The furthest is exactly -8 steps away, so that all sixteen values are used. The scale is
        // stored in sixteen bits, and the weights are divided by what is stored.
        Bits::Four => bf16::from_f32(extreme / -8.0).to_f32(),
    }
}

/// `steps` to the nearest integer within the range, with the zero added. Not a number becomes zero.
fn quantized(bits: Bits, steps: f32) -> u8 {
    let (low, high) = match bits {
        Bits::Eight => (-127.0, 127.0),
        Bits::Four => (-8.0, 7.0),
    };
    // Adding and taking away rounds to the nearest, ties to even, where that is far smaller.
    let steps = (steps.clamp(low, high) + ROUND) - ROUND;
    // Between 0 and 255.
    (steps as i32 + bits.zero()) as u8
}

/// Of `values`, the furthest from zero.
fn extreme(values: &[f32]) -> f32 {
    let far = |far: f32, value: &f32| if value.abs() > far.abs() { *value } else { far };
    values.iter().fold(0.0, far)
}

/// Quantizes rows into a panel of blocks (`[blocks][words][64]`), giving each scale to `keep` with
/// its block (0 for all of eight bits) and lane.
pub(crate) fn pack_panel<'a>(
    bits: Bits,
    rows: impl Iterator<Item = (&'a [u8], Dtype)>,
    out: &mut [u32],
    mut keep: impl FnMut(usize, usize, f32),
) {
    let mut values = Vec::new();
    for (lane, (row, dtype)) in rows.enumerate() {
        widen(row, dtype, &mut values);
        let whole = match bits {
            Bits::Eight => Some(scale_of(bits, extreme(&values))),
            Bits::Four => None,
        };
        if let Some(scale) = whole {
            keep(0, lane, scale);
        }
        let blocks = out.chunks_exact_mut(bits.words() * PANEL);
        for (block, (values, out)) in values.chunks(GROUP).zip(blocks).enumerate() {
            let scale = whole.unwrap_or_else(|| {
                let scale = scale_of(bits, extreme(values));
                keep(block, lane, scale);
                scale
            });
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let mut each = [bits.zero() as u8; GROUP];
            for (each, value) in each.iter_mut().zip(values) {
                *each = quantized(bits, value * inverse);
            }
            if bits == Bits::Four {
                let (low, high) = each.split_at_mut(GROUP / 2);
                low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high << 4);
            }
            let words = each.as_chunks::<4>().0.iter().take(bits.words());
            for (word, out) in words.zip(out[lane..].iter_mut().step_by(PANEL)) {
                *out = u32::from_le_bytes(*word);
            }
        }
    }
}

/// A row's elements as `f32`.
fn widen(row: &[u8], dtype: Dtype, values: &mut Vec<f32>) {
    values.clear();
    match dtype {
        Dtype::Bf16 => {
            let bits = row.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
            values.extend(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)));
        }
        Dtype::F32 => values.extend(row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => values.extend((0..row.len() / 2).map(|at| dtype.read(row, at))),
    }
}

/// The scale of a row of activations and what to multiply its elements by, from the largest
/// magnitude of all ranks if that is given. Not a number if one of them is not.
#[inline(always)]
pub(crate) fn row_scale(x: &[f32], peak: Option<&f32>) -> (f32, f32) {
    let mut found = 0.0f32;
    match peak {
        Some(peak) => found = *peak,
        None => {
            for value in x {
                let size = value.abs();
                found = if size > found || size.is_nan() { size } else { found };
            }
        }
    }
    (found / 127.0, if found > 0.0 { 127.0 / found } else { 0.0 })
}

/// An activation as an integer, ties to even.
#[inline(always)]
pub(crate) fn byte(value: f32, inverse: f32) -> i8 {
    // At most 127 and a rounding, or nothing that matters, because the scale is not a number.
    ((value * inverse + ROUND) - ROUND) as i8
}

/// The product of a row of activations and the weights of one output, `weight` and `scale` by input
/// and group, in plain loops.
pub(crate) fn product(
    bits: Bits,
    (x, peak): (&[f32], Option<&f32>),
    weight: impl Fn(usize) -> u32,
    scale: impl Fn(usize) -> f32,
) -> f32 {
    let (row, inverse) = row_scale(x, peak);
    let dot = |first: usize, x: &[f32]| {
        let products = x.iter().enumerate().map(|(at, x)| {
            (weight(first + at).cast_signed() - bits.zero()) * i32::from(byte(*x, inverse))
        });
        products.fold(0, i32::wrapping_add)
    };
    match bits {
        Bits::Eight => dot(0, x) as f32 * (row * scale(0)),
        Bits::Four => {
            let groups = x.chunks(GROUP).enumerate();
            let total = groups.fold(0.0f32, |total, (group, x)| {
                (dot(group * GROUP, x) as f32).mul_add(scale(group), total)
            });
            total * row
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_has_bits_of_its_own() {
        for bits in [Bits::Eight, Bits::Four] {
            let mut words = [0u32; WORDS];
            for input in 0..GROUP {
                let (word, shift) = bits.place(input);
                assert_eq!(words[word] >> shift & bits.mask(), 0, "{bits:?} {input}");
                words[word] |= bits.mask() << shift;
            }
            assert!(words[..bits.words()].iter().all(|word| *word == u32::MAX));
        }
    }

    #[test]
    fn weights_come_back_within_half_a_step() {
        let values: Vec<f32> = (0..200).map(|at| (at as f32 * 0.37).sin() * 0.02).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for bits in [Bits::Eight, Bits::Four] {
            let blocks = values.len().div_ceil(GROUP);
            let mut out = vec![0; blocks * bits.words() * PANEL];
            let mut scales = vec![0.0; blocks];
            pack_panel(bits, [(&bytes[..], Dtype::F32)].into_iter(), &mut out, |block, lane, s| {
                assert_eq!(lane, 0);
                scales[block] = s;
            });
            for (at, value) in values.iter().enumerate() {
                let (word, shift) = bits.place(at % GROUP);
                let word = (at / GROUP * bits.words() + word) * PANEL;
                let q = (out[word] >> shift & bits.mask()).cast_signed() - bits.zero();
                let scale = scales[if bits == Bits::Four { at / GROUP } else { 0 }];
                let back = q as f32 * scale;
                // The end of the four bits' range that is one step short.
                let allowed = if bits == Bits::Four && q == 7 { 1.05 } else { 0.51 };
                assert!((back - value).abs() <= scale.abs() * allowed, "{bits:?} {at}");
            }
        }
    }

    #[test]
    fn a_row_that_is_no_number_gives_none() {
        for odd in [f32::NAN, f32::INFINITY] {
            let found = product(Bits::Eight, (&[1.0, odd, 2.0], None), |_| 130, |_| 1.0);
            assert!(!found.is_finite(), "{found}");
        }
        assert_eq!(product(Bits::Four, (&[0.0; 70], None), |_| 15, |_| 1.0), 0.0);
    }
}
