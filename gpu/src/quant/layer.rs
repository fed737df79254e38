//! A layer of a quantized checkpoint: which format reads it, and what its product rounds.

use troupe_runtime::model::config::{ModelConfig, Quantization, QuantizedInputs, QuantizedWeights};

use super::{
    awq, fp8, gguf, gptq, int8, packed,
    source::{Cut, InputRounding, QuantizedPart},
    tensors::LayerTensors,
};
use crate::{error::DeviceError, tensor::Quantize, weights::WeightReader};

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
        QuantizedWeights::Gguf { paired } => gguf::part(&tensors, cut, paired),
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
