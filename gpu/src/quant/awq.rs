//! AWQ as AutoAWQ's `gemm` writes it: `qweight` `[in, out / 8]` and `qzeros` `[groups, out / 8]`
//! with outputs shuffled within a word, `scales` `[groups, out]`.

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{CodeKind, CodeLayout, Codes, shuffled},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// A rank's part of a layer, of so many inputs in a group.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
    group: Option<usize>,
) -> Result<QuantizedPart<'a>, DeviceError> {
    const PER_WORD: usize = 8;
    let (outputs, inputs) = cut.shape;
    let group = group.unwrap_or(inputs);
    let groups = inputs.div_ceil(group);
    tensors.check_words("qweight", outputs, PER_WORD)?;
    let row = outputs / PER_WORD;
    let words = tensors.integers("qweight", &[inputs, row])?;
    let zeros = tensors.integers("qzeros", &[groups, row])?.as_chunks::<4>().0;
    let scales = tensors.floats("scales", &[groups, outputs])?;
    let (touched, of_inputs) = cut.groups(|input| input / group);
    let zero = |(group, output): (usize, usize)| {
        let word = u32::from_le_bytes(zeros[group * row + output / PER_WORD]);
        (word >> (4 * shuffled(output)) & 0xf) as f32
    };
    let each = || touched.iter().flat_map(|g| cut.outputs.clone().map(move |output| (*g, output)));
    Ok(QuantizedPart {
        codes: Codes::new(
            words,
            (CodeLayout::OutputWords, CodeKind::Int4),
            row,
            (cut.outputs.clone(), cut.inputs.clone()),
        ),
        groups: of_inputs,
        scales: each().map(|(group, output)| scales.at(group * outputs + output)).collect(),
        zeros: Zeros::of(each().map(zero).collect()),
        bias: None,
    })
}
