//! GPTQ as AutoGPTQ writes it: `qweight` `[in / per word, out]`, `qzeros` `[groups, out / per
//! word]`, `scales` `[groups, out]`, and `g_idx` `[in]`, which with activation order names the
//! groups in no order.

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{CodeKind, CodeLayout, Codes},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// A rank's part of a layer, of so many bits, inputs in a group, and what zeros lack.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
    (bits, group, zero_offset): (u32, Option<usize>, u32),
) -> Result<QuantizedPart<'a>, DeviceError> {
    let (outputs, inputs) = cut.shape;
    let group = group.unwrap_or(inputs);
    let (groups, per_word) = (inputs.div_ceil(group), (32 / bits) as usize);
    tensors.check_words("qweight", inputs, per_word)?;
    tensors.check_words("qzeros", outputs, per_word)?;
    let words = tensors.integers("qweight", &[inputs / per_word, outputs])?;
    let zeros = tensors.integers("qzeros", &[groups, outputs / per_word])?;
    let scales = tensors.floats("scales", &[groups, outputs])?;
    let indices = match tensors.contains("g_idx") {
        true => tensors.group_indices("g_idx", inputs, groups)?,
        false => (0..inputs).map(|input| input / group).collect(),
    };
    let kind = if bits == 4 { CodeKind::Int4 } else { CodeKind::Int8 };
    let (touched, of_inputs) = cut.groups(|input| indices[input]);
    let mask = (1u32 << bits) - 1;
    let zeros = zeros.as_chunks::<4>().0;
    let zero = |(group, output): (usize, usize)| {
        let word = u32::from_le_bytes(zeros[group * (outputs / per_word) + output / per_word]);
        // Stored as one less, where 0 became the highest.
        let stored = word >> ((output % per_word) as u32 * bits);
        (((stored & mask) + zero_offset) & mask) as f32
    };
    let each = || touched.iter().flat_map(|g| cut.outputs.clone().map(move |output| (*g, output)));
    Ok(QuantizedPart {
        codes: Codes::new(
            words,
            (CodeLayout::InputWords, kind),
            outputs,
            (cut.outputs.clone(), cut.inputs.clone()),
        ),
        groups: of_inputs,
        scales: each().map(|(group, output)| scales.at(group * outputs + output)).collect(),
        zeros: Zeros::of(each().map(zero).collect()),
        bias: None,
    })
}
