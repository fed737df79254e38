//! llama.cpp's formats: blocks of neighboring inputs that carry their own scales. Q4_0 and Q8_0
//! have one scale in a block of 32; Q4_K has scales and minima of six bits for each 32 of a block
//! of 256; Q6_K has scales of eight for each 16.

use half::f16;

use super::{
    Cut, QuantizedPart, Zeros,
    codes::{BlockKind, CodeLayout, Codes},
    tensors::LayerTensors,
};
use crate::error::DeviceError;

/// A rank's part of a layer. `paired` is the size of a head where rotated pairs of query and key
/// heads lie side by side.
///
/// # Errors
/// [`DeviceError::Weights`].
pub fn part<'a>(
    tensors: &LayerTensors<'_, 'a>,
    cut: &Cut,
    paired: Option<usize>,
) -> Result<QuantizedPart<'a>, DeviceError> {
    let (outputs, inputs) = cut.shape;
    let names = BlockKind::TABLE.map(|(_, name)| name);
    let tensor = tensors.tensor("weight", &names, &[outputs, inputs])?;
    let row = BlockKind::TABLE.iter().find(|(_, name)| *name == tensor.dtype);
    // One of the names that were asked for.
    let kind = row.map_or(BlockKind::Q8_0, |(kind, _)| *kind);
    tensors.check_words("weight", inputs, kind.elements())?;
    let paired = paired.filter(|size| tensors.is_rotated() && is_paired(outputs, *size));
    let (touched, groups) = cut.groups(|input| input / kind.group());
    let stride = inputs / kind.elements() * kind.bytes();
    let each = touched.iter().flat_map(|g| cut.outputs.clone().map(move |output| (*g, output)));
    let (mut scales, mut offsets) = (Vec::new(), Vec::new());
    for (group, output) in each {
        let output = paired.map_or(output, |size| paired_row(output, size));
        let first = group * kind.group();
        let block = output * stride + first / kind.elements() * kind.bytes();
        let block = &tensor.bytes[block..][..kind.bytes()];
        let (scale, minimum) = scales_of(kind, block, first % kind.elements() / kind.group());
        scales.push(scale);
        offsets.extend(minimum.map(|minimum| -minimum));
    }
    let zeros = match kind {
        BlockKind::Q4_0 => Zeros::Same(8.0),
        BlockKind::Q4K => Zeros::Offsets(offsets),
        BlockKind::Q6K => Zeros::Same(32.0),
        BlockKind::Q8_0 => Zeros::Same(128.0),
    };
    let layout = (CodeLayout::Blocks(kind), kind.codes());
    let ranges = (cut.outputs.clone(), cut.inputs.clone());
    let codes = Codes::new(tensor.bytes, layout, stride, ranges).with_pairs(paired);
    Ok(QuantizedPart { codes, groups, scales, zeros, bias: None })
}

/// Whether so many rows are heads of such a size, which have pairs.
pub fn is_paired(rows: usize, size: usize) -> bool {
    size > 0 && size.is_multiple_of(2) && rows.is_multiple_of(size)
}

/// The row of a file that has output `output`, where elements `i` and `i + size / 2` of a head lie
/// side by side.
pub fn paired_row(output: usize, size: usize) -> usize {
    let (head, at) = (output / size, output % size);
    head * size + at % (size / 2) * 2 + at / (size / 2)
}

/// The scale of a block's group, and its minimum where there is one: exactly, because factors have
/// eleven bits and at most eight.
fn scales_of(kind: BlockKind, block: &[u8], group: usize) -> (f32, Option<f32>) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    match kind {
        BlockKind::Q4_0 | BlockKind::Q8_0 => (half(0), None),
        BlockKind::Q4K => {
            let packed = &block[4..16];
            let (scale, minimum) = match group {
                0..4 => (packed[group] & 63, packed[group + 4] & 63),
                _ => (
                    packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
                    packed[group + 4] >> 4 | packed[group] >> 6 << 4,
                ),
            };
            (half(0) * f32::from(scale), Some(half(2) * f32::from(minimum)))
        }
        BlockKind::Q6K => (half(208) * f32::from(block[192 + group].cast_signed()), None),
    }
}
