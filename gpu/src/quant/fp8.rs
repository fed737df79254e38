//! Eight-bit floats (e4m3): `weight` `[out, in]`, with `weight_scale` for each output or for all,
//! or `weight_scale_inv` (DeepSeek's name for the same factor) for each block of outputs and
//! inputs.

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{CodeKind, CodeLayout, Codes},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// The value of a code, exactly: its bits mean the same in an `f32`, but for where exponents begin.
pub fn value(code: u8) -> f32 {
    let code = u32::from(code);
    f32::from_bits((code & 0x80) << 24 | (code & 0x7f) << 20) * f32::from_bits((120 + 127) << 23)
}

/// A rank's part of a layer, with scales of blocks of so many outputs and inputs.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
    block: Option<(usize, usize)>,
) -> Result<QuantizedPart<'a>, DeviceError> {
    let (outputs, inputs) = cut.shape;
    let bytes = tensors.tensor("weight", &["F8_E4M3"], &[outputs, inputs])?.bytes;
    let name = match tensors.contains("weight_scale_inv") {
        true => "weight_scale_inv",
        false => "weight_scale",
    };
    let (groups, scales) = match block {
        Some((high, wide)) => {
            let columns = inputs.div_ceil(wide);
            let scales = tensors.floats(name, &[outputs.div_ceil(high), columns])?;
            let (touched, of_inputs) = cut.groups(|input| input / wide);
            let each =
                touched.iter().flat_map(|g| cut.outputs.clone().map(move |output| (*g, output)));
            let scales = each.map(|(group, output)| scales.at(output / high * columns + group));
            (of_inputs, scales.collect())
        }
        None => {
            let scales = tensors.output_scales(name, outputs)?;
            let scales = cut.outputs.clone().map(|output| scales.at(output)).collect();
            (vec![0; cut.inputs.len()], scales)
        }
    };
    Ok(QuantizedPart {
        codes: Codes::new(
            bytes,
            (CodeLayout::Bytes, CodeKind::Fp8),
            inputs,
            (cut.outputs.clone(), cut.inputs.clone()),
        ),
        groups,
        scales,
        zeros: Zeros::Same(0.0),
        bias: None,
    })
}
