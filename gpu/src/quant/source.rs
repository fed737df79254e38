//! Quantized weights as devices take them over, whatever format they came from, and what a rank
//! takes of them.

use std::{collections::BTreeSet, ops::Range};

use super::{
    codes::{CodeKind, Codes},
    fp8,
};
use crate::tensor::DenseMatrix;

/// A linear layer of quantized weights.
#[derive(Clone, Debug)]
pub struct QuantizedSource<'a> {
    /// Matrices stacked along their outputs.
    pub parts: Vec<QuantizedPart<'a>>,
    /// What the product's inputs are rounded to, unless it computes in `f32`.
    pub rounding: InputRounding,
}

/// One matrix of codes with its scales.
#[derive(Clone, Debug)]
pub struct QuantizedPart<'a> {
    /// `[out, in]`.
    pub codes: Codes<'a>,
    /// The group of each input; numbers begin at 0, and each has scales.
    pub groups: Vec<u32>,
    /// `[group][out]`.
    pub scales: Vec<f32>,
    /// What stands for zero.
    pub zeros: Zeros,
    /// `[1, out]`.
    pub bias: Option<DenseMatrix<'a>>,
}

/// Which codes stand for zero.
#[derive(Clone, Debug, PartialEq)]
pub enum Zeros {
    /// `[group][out]`.
    Each(Vec<f32>),
    /// `[group][out]`: instead of a code, what is added to `code * scale`.
    Offsets(Vec<f32>),
    /// The same for all. Eight-bit floats have 0.
    Same(f32),
}

/// What a product rounds its inputs to before it multiplies them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputRounding {
    /// Nothing.
    Exact,
    /// Eight-bit floats, with a scale for each row and group of inputs.
    Fp8Groups {
        /// Inputs of a group.
        size: usize,
        /// The first of this rank's inputs, among those of all ranks.
        first: usize,
        /// Inputs of all ranks.
        inputs: usize,
    },
    /// Eight-bit floats of one scale.
    Fp8Static(f32),
    /// Eight-bit floats, with a scale for each row.
    Fp8Token,
    /// Signed bytes, with a scale for each row.
    Int8Token,
}

/// What a rank takes of a layer's matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Outputs and inputs of the whole matrix.
    pub shape: (usize, usize),
    /// This rank's outputs.
    pub outputs: Range<usize>,
    /// This rank's inputs.
    pub inputs: Range<usize>,
}

// === impl InputRounding ===

impl InputRounding {
    /// Scales of a row that follow from its values, and so from those of all ranks.
    pub const fn peaks(&self) -> usize {
        match self {
            Self::Exact | Self::Fp8Static(_) => 0,
            Self::Fp8Groups { size, inputs, .. } => inputs.div_ceil(*size),
            Self::Fp8Token | Self::Int8Token => 1,
        }
    }
}

// === impl QuantizedPart ===

impl QuantizedPart<'_> {
    /// The weights, input by input: `[in][out]`.
    pub fn by_input(&self) -> Vec<f32> {
        let outputs = self.codes.outputs();
        let mut codes = vec![0; outputs];
        let mut weights = Vec::with_capacity(self.codes.inputs() * outputs);
        for input in 0..self.codes.inputs() {
            self.codes.of_input(input, 0, &mut codes);
            let first = self.groups[input] as usize * outputs;
            weights.extend((first..).zip(&codes).map(|(at, &code)| {
                let value = match self.codes.kind() {
                    CodeKind::Fp8 => fp8::value(code),
                    _ => f32::from(code),
                };
                match &self.zeros {
                    Zeros::Each(zeros) => (value - zeros[at]) * self.scales[at],
                    Zeros::Offsets(offsets) => value.mul_add(self.scales[at], offsets[at]),
                    Zeros::Same(zero) => (value - zero) * self.scales[at],
                }
            }));
        }
        weights
    }

    /// Bytes of codes, scales and zeros, as a device without padding would hold them.
    pub fn bytes(&self) -> usize {
        let zeros = match &self.zeros {
            Zeros::Each(zeros) | Zeros::Offsets(zeros) => zeros.len(),
            Zeros::Same(_) => 0,
        };
        let codes = self.codes.outputs() * self.codes.inputs() * self.codes.bits() as usize;
        codes.div_ceil(8) + 4 * (self.scales.len() + zeros)
    }
}

// === impl Zeros ===

impl Zeros {
    /// These, or their one value if they are all alike.
    pub(super) fn of(each: Vec<f32>) -> Self {
        match each.split_first() {
            Some((first, rest)) if rest.iter().all(|zero| zero == first) => Self::Same(*first),
            _ => Self::Each(each),
        }
    }
}

// === impl Cut ===

impl Cut {
    /// The groups of a rank's inputs, `group_of` giving that of each of the whole matrix: first
    /// those that it touches, ascending, then which of them each of its inputs belongs to.
    pub(super) fn groups(&self, group_of: impl Fn(usize) -> usize) -> (Vec<usize>, Vec<u32>) {
        let touched: BTreeSet<usize> = self.inputs.clone().map(&group_of).collect();
        let touched: Vec<usize> = touched.into_iter().collect();
        // A group that an input has is among those touched.
        let place = |input| touched.partition_point(|group| *group < group_of(input)) as u32;
        let places = self.inputs.clone().map(place).collect();
        (touched, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::codes::CodeLayout;

    #[test]
    fn weights_come_input_by_input_with_the_scales_of_their_groups() {
        // 1, -2 and 0.5 for the first output, 2, 1 and 0 for the second.
        let bytes = [0x38, 0xc0, 0x30, 0x40, 0x38, 0x00];
        let codes = |kind| Codes::new(&bytes, (CodeLayout::Bytes, kind), 3, (0..2, 0..3));
        let scales = vec![1.0, 10.0, 100.0, 1000.0];
        let (groups, zeros) = (vec![0, 1, 1], Zeros::Same(0.0));
        let mut part =
            QuantizedPart { codes: codes(CodeKind::Fp8), groups, scales, zeros, bias: None };
        assert_eq!(part.by_input(), [1.0, 20.0, -200.0, 1000.0, 50.0, 0.0]);
        part.codes = codes(CodeKind::Int8);
        part.zeros = Zeros::Each(vec![56.0, 64.0, 192.0, 56.0]);
        assert_eq!(part.by_input(), [0.0, 0.0, 0.0, 0.0, -14_400.0, -56_000.0]);
        part.zeros = Zeros::Offsets(vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(part.by_input(), [57.0, 642.0, 19_203.0, 56_004.0, 4803.0, 4.0]);
    }
}
