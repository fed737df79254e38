//! Brain-float products: the order of their sums, how their weights lie in memory, and the rounding
//! of what goes in.
//!
//! The order is that of the AMX instruction `TDPBF16PS` (Intel's architecture manual, volume 2), so
//! that machines with it can use it and all others reproduce its bits. Inputs form blocks of 32. In
//! a block the inputs with even numbers are one chain of multiply-adds that starts at 0, those with
//! odd numbers another; the two are added, and their sum to the total of the blocks before.
//!
//! That instruction also takes subnormal numbers for zero. Nothing else needs to, because none can
//! arise: a weight or input smaller than [`SMALLEST`] is stored as zero, so each product is a
//! multiple of 2^-126 and so is every sum of them, however it is rounded.

use half::bf16;

use crate::{cpu::packed::PANEL, dtype::Dtype};

/// Inputs of a block.
pub(crate) const BLOCK: usize = 32;
/// Pairs of a block.
pub(crate) const PAIRS: usize = BLOCK / 2;
/// Smaller magnitudes count as zero.
pub(crate) const SMALLEST: f32 = 1.0 / (1u64 << 56) as f32;

/// The bits of that.
pub(crate) const LEAST: u16 = (SMALLEST.to_bits() >> 16) as u16;

/// Which two inputs of a block share a word, in its lower and upper half. The order of sums is the
/// same with each; kernels differ in what they can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairOrder {
    /// Word `i` has inputs `2i` and `2i + 1`: the two chains side by side.
    Natural,
    /// Words 0 to 7 have the even chain and 8 to 15 the odd one, two steps each, the first of them
    /// in the upper half: the instruction `VDPBF16PS` adds that half first.
    Chained,
}

impl PairOrder {
    /// The inputs in the lower and the upper half of word `word` of a block.
    pub(crate) const fn inputs(self, word: usize) -> (usize, usize) {
        match self {
            Self::Natural => (2 * word, 2 * word + 1),
            Self::Chained => {
                let (chain, step) = (word / 8, word % 8 * 2);
                (2 * (step + 1) + chain, 2 * step + chain)
            }
        }
    }

    /// The word of a block that has input `input`, and how far it must be moved down.
    pub(crate) const fn place(self, input: usize) -> (usize, u32) {
        match self {
            Self::Natural => (input / 2, if input % 2 == 1 { 16 } else { 0 }),
            Self::Chained => {
                let (chain, step) = (input % 2, input / 2);
                (chain * 8 + step / 2, if step % 2 == 0 { 16 } else { 0 })
            }
        }
    }
}

/// Words of `inputs` inputs, the last block filled up with zeros.
pub(crate) const fn words(inputs: usize) -> usize {
    inputs.div_ceil(BLOCK) * PAIRS
}

/// Rounds to the nearest brain float, ties to even; what is too small becomes zero.
#[inline(always)]
pub(crate) fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // A number that is none stays none: rounding could carry it into the sign.
    let narrow = if value.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded };
    without_tiny(narrow)
}

/// Zero for what is smaller than [`SMALLEST`].
#[inline(always)]
pub(crate) fn without_tiny(bits: u16) -> u16 {
    if bits & 0x7fff < LEAST { 0 } else { bits }
}

/// Widens, exactly.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rows of a block of weights on the way into their panel: `out` is `[16][64]` words, of which it
/// fills lane `lane`.
pub(crate) fn pack_block(
    order: PairOrder,
    (row, dtype): (&[u8], Dtype),
    block: usize,
    lane: usize,
    out: &mut [u32],
) {
    let first = block * BLOCK;
    let mut inputs = [0; BLOCK];
    let count = BLOCK.min(row.len() / dtype.size() - first);
    if dtype == Dtype::Bf16 {
        let bytes = &row[first * 2..][..count * 2];
        for (input, bytes) in inputs.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *input = without_tiny(u16::from_le_bytes(*bytes));
        }
    } else {
        for (at, input) in inputs[..count].iter_mut().enumerate() {
            *input = narrow(dtype.read(row, first + at));
        }
    }
    for (word, out) in out[lane..].iter_mut().step_by(PANEL).enumerate() {
        let (low, high) = order.inputs(word);
        *out = u32::from(inputs[low]) | u32::from(inputs[high]) << 16;
    }
}

/// The sum in the stated order of the products of `x`, which [`narrow`] has been through, and the
/// weights that `weight` gives by input.
pub(crate) fn product(x: &[f32], weight: impl Fn(usize) -> f32) -> f32 {
    let mut total = 0.0;
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let mut chains = [0.0; 2];
        for (at, &x) in x.iter().enumerate() {
            let chain: &mut f32 = &mut chains[at % 2];
            *chain = x.mul_add(weight(block * BLOCK + at), *chain);
        }
        total += chains[0] + chains[1];
    }
    total
}

/// [`narrow`] and back.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> f32 {
    widen(narrow(value))
}

const _: () = assert!(bf16::MIN_POSITIVE.to_bits() < LEAST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_has_its_place_in_both_orders() {
        for order in [PairOrder::Natural, PairOrder::Chained] {
            for input in 0..BLOCK {
                let (word, shift) = order.place(input);
                let (low, high) = order.inputs(word);
                assert_eq!(if shift == 0 { low } else { high }, input, "{order:?}");
            }
        }
    }

    #[test]
    fn narrowing_is_rounding_to_the_nearest_without_what_is_tiny() {
        let samples = (0..u32::MAX).step_by(65_521).map(f32::from_bits);
        for value in samples.chain([0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]) {
            let near = bf16::from_f32(value);
            let found = bf16::from_bits(narrow(value));
            if value.is_nan() {
                assert!(found.is_nan());
            } else if near.to_f32().abs() < SMALLEST {
                assert_eq!(found.to_f32(), 0.0, "{value}");
            } else {
                assert_eq!(found.to_bits(), near.to_bits(), "{value}");
            }
        }
    }

    #[test]
    fn no_sum_is_subnormal() {
        // The closest that two products can come without being equal.
        let (one, next) = (SMALLEST, SMALLEST * (1.0 + 1.0 / 128.0));
        let sum = product(&[one, 0.0, next], |at| [-next, 0.0, next][at]);
        assert!(sum.is_normal(), "{sum:e}");
        let least = product(&[one, 0.0, one], |at| [-one, 0.0, next][at]);
        assert!(least.is_normal(), "{least:e}");
    }
}
