//! Weights that were quantized before we got them: GPTQ, AWQ, compressed-tensors, fp8.
//!
//! Whatever tool made a checkpoint, a weight is `(code - zero) * scale`, or with eight-bit floats
//! `code * scale`, where outputs and groups of inputs have scales (and zeros) of their own. Each
//! format's file knows names and shapes of its tensors, and makes the same [`QuantizedPart`] of
//! them; no device knows a format.
//!
//! # Layout
//! - [`codes`]: where codes lie in a file, read input by input
//! - [`tensors`]: a layer's tensors, checked against what the config implies
//! - [`gptq`], [`awq`], [`packed`], [`int8`], [`fp8`]: the formats
//!
//! # Sharding
//! A rank takes a run of outputs or of inputs. Codes stay where they are in the mapped file; scales
//! and zeros are copied, those of the groups that its inputs belong to. A group may span ranks, and
//! with GPTQ's activation order any input may be of any group: each rank then keeps the scales of
//! every group that it touches.

pub mod awq;
pub mod codes;
pub mod fp8;
pub mod gptq;
pub mod int8;
pub mod packed;
pub mod tensors;

use std::{collections::BTreeSet, ops::Range};

use troupe_runtime::model::config::{ModelConfig, Quantization, QuantizedInputs, QuantizedWeights};

use self::{codes::Codes, tensors::LayerTensors};
use crate::{
    error::DeviceError,
    tensor::{DenseMatrix, Quantize},
    weights::WeightReader,
};

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
    /// Bytes of codes, scales and zeros, as a device without padding would hold them.
    pub fn bytes(&self) -> usize {
        let zeros = match &self.zeros {
            Zeros::Each(zeros) => zeros.len(),
            Zeros::Same(_) => 0,
        };
        let codes = self.codes.outputs() * self.codes.inputs() * self.codes.bits() as usize;
        codes.div_ceil(8) + 4 * (self.scales.len() + zeros)
    }
}

// === impl Zeros ===

impl Zeros {
    /// These, or their one value if they are all alike.
    fn of(each: Vec<f32>) -> Self {
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
    fn groups(&self, group_of: impl Fn(usize) -> usize) -> (Vec<usize>, Vec<u32>) {
        let touched: BTreeSet<usize> = self.inputs.clone().map(&group_of).collect();
        let touched: Vec<usize> = touched.into_iter().collect();
        // A group that an input has is among those touched.
        let place = |input| touched.partition_point(|group| *group < group_of(input)) as u32;
        let places = self.inputs.clone().map(place).collect();
        (touched, places)
    }
}

/// A rank's part of layer `name`, or none if the checkpoint has it in full.
///
/// # Errors
/// [`DeviceError::Weights`] naming the tensor that is missing or is not as the config implies.
pub fn part<'a>(
    reader: &WeightReader<'a>,
    name: &str,
    cut: &Cut,
) -> Result<Option<QuantizedPart<'a>>, DeviceError> {
    let Some(quantization) = reader.quantization() else { return Ok(None) };
    let tensors = LayerTensors::new(reader, name);
    if !tensors.is_quantized()? {
        return Ok(None);
    }
    let part = match quantization.weights {
        QuantizedWeights::Awq { group } => awq::part(&tensors, cut, group),
        QuantizedWeights::Fp8 { block } => fp8::part(&tensors, cut, block),
        QuantizedWeights::Gptq { bits, group, zero_offset } => {
            gptq::part(&tensors, cut, (bits, group, zero_offset))
        }
        QuantizedWeights::Int8 => int8::part(&tensors, cut),
        QuantizedWeights::Packed { bits, group } => packed::part(&tensors, cut, (bits, group)),
    };
    part.map(Some)
}

/// What the products of layers `names`, fused into one, round their inputs to. Layers that share
/// their input were given one static scale; if theirs differ, the largest cuts nothing off.
///
/// # Errors
/// As [`part`].
pub fn rounding(
    reader: &WeightReader<'_>,
    names: &[&str],
    cut: &Cut,
) -> Result<InputRounding, DeviceError> {
    let Some(Quantization { inputs, .. }) = reader.quantization() else {
        return Ok(InputRounding::Exact);
    };
    Ok(match inputs {
        QuantizedInputs::Exact => InputRounding::Exact,
        QuantizedInputs::Fp8Groups(size) => {
            InputRounding::Fp8Groups { size: *size, first: cut.inputs.start, inputs: cut.shape.1 }
        }
        QuantizedInputs::Fp8Static => {
            let scales = names.iter().map(|name| LayerTensors::new(reader, name).input_scale());
            let scales = scales.collect::<Result<Vec<_>, _>>()?;
            InputRounding::Fp8Static(scales.into_iter().fold(0.0, f32::max))
        }
        QuantizedInputs::Fp8Token => InputRounding::Fp8Token,
        QuantizedInputs::Int8Token => InputRounding::Int8Token,
    })
}

/// Whether weights can be rounded when they are loaded: not once more, if they were before.
///
/// # Errors
/// [`DeviceError::Unsupported`], saying what to leave out.
pub fn check(config: &ModelConfig, quantize: Option<Quantize>) -> Result<(), DeviceError> {
    match (&config.quantization, quantize) {
        (Some(Quantization { method, .. }), Some(asked)) => {
            let asked = format!("{asked:?}").to_lowercase();
            Err(DeviceError::Unsupported(format!(
                "--quantization {asked} for weights that the checkpoint has quantized already \
                 (`{method}`): leave --quantization out, and they are used as they are"
            )))
        }
        _ => Ok(()),
    }
}
