//! compressed-tensors' `pack-quantized`: `weight_packed` `[out, in / per word]` with half of the
//! range added to each signed number, `weight_scale` `[out, groups]`, and `weight_g_idx` `[in]`
//! where groups are of activation order. (`weight_shape` says what the config says too.)

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{CodeKind, CodeLayout, Codes},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// A rank's part of a layer, of so many bits and inputs in a group.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
    (bits, group): (u32, Option<usize>),
) -> Result<QuantizedPart<'a>, DeviceError> {
    let (outputs, inputs) = cut.shape;
    let group = group.unwrap_or(inputs);
    let (groups, per_word) = (inputs.div_ceil(group), (32 / bits) as usize);
    tensors.check_words("weight_packed", inputs, per_word)?;
    let words = tensors.integers("weight_packed", &[outputs, inputs / per_word])?;
    let scales = tensors.floats("weight_scale", &[outputs, groups])?;
    let indices = match tensors.contains("weight_g_idx") {
        true => tensors.group_indices("weight_g_idx", inputs, groups)?,
        false => (0..inputs).map(|input| input / group).collect(),
    };
    let (touched, of_inputs) = cut.groups(|input| indices[input]);
    let kind = if bits == 4 { CodeKind::Int4 } else { CodeKind::Int8 };
    let each = touched.iter().flat_map(|g| cut.outputs.clone().map(move |output| (*g, output)));
    Ok(QuantizedPart {
        codes: Codes::new(
            words,
            (CodeLayout::RowWords, kind),
            inputs / per_word,
            (cut.outputs.clone(), cut.inputs.clone()),
        ),
        groups: of_inputs,
        scales: each.map(|(group, output)| scales.at(output * groups + group)).collect(),
        zeros: Zeros::Same((1u32 << (bits - 1)) as f32),
        bias: None,
    })
}
