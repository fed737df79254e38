//! compressed-tensors' `int-quantized`: `weight` `[out, in]` of signed bytes, `weight_scale` of one
//! for each output or for all.

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{CodeKind, CodeLayout, Codes},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// A rank's part of a layer.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
) -> Result<QuantizedPart<'a>, DeviceError> {
    let (outputs, inputs) = cut.shape;
    let bytes = tensors.tensor("weight", &["I8"], &[outputs, inputs])?.bytes;
    let scales = tensors.output_scales("weight_scale", outputs)?;
    Ok(QuantizedPart {
        codes: Codes::new(
            bytes,
            (CodeLayout::SignedBytes, CodeKind::Int8),
            inputs,
            (cut.outputs.clone(), cut.inputs.clone()),
        ),
        groups: vec![0; cut.inputs.len()],
        scales: cut.outputs.clone().map(|output| scales.at(output)).collect(),
        zeros: Zeros::Same(128.0),
        bias: None,
    })
}
