//! What adapters add to a product: their rows are gathered, multiplied by both factors with the
//! kernels of every product, and added where they came from. A row's result is a function of that
//! row alone, as the kernels' are, and rows without an adapter are not touched.

use crate::{
    backend::PreparedLinear,
    cpu::{CpuDevice, aligned::Aligned},
    error::DeviceError,
    lora::weights::LoraRows,
};

/// Working memory.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Rows of one adapter.
    inputs: Aligned<f32>,
    /// After the first factor; of one part.
    low: Aligned<f32>,
    part: Aligned<f32>,
    /// After the second.
    outputs: Aligned<f32>,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let none = || Aligned::zeroed(0);
        Ok(Self { inputs: none()?, low: none()?, part: none()?, outputs: none()? })
    }
}

/// Fails unless rows and parts are those of a product of `rows` rows, `inputs` and `outputs`.
pub(crate) fn check(
    adapters: &[LoraRows<'_, CpuDevice>],
    rows: usize,
    (inputs, outputs): (usize, usize),
) -> Result<(), DeviceError> {
    for LoraRows { rows: own, weights } in adapters {
        let down = &weights.down;
        let rows_fit = own.iter().all(|row| (*row as usize) < rows);
        let parts_fit = weights.up.iter().all(|up| {
            up.columns.end <= outputs
                && up.ranks.end <= down.out_features()
                && up.weight.in_features() == up.ranks.len()
                && up.weight.out_features() == up.columns.len()
        });
        if !rows_fit || !parts_fit || down.in_features() != inputs {
            return Err(DeviceError::Contract(format!(
                "an adapter's rows or parts are not those of {rows} rows, {inputs} x {outputs}"
            )));
        }
    }
    Ok(())
}

/// Adds what was checked to `out`, whose rows are `outputs` wide.
pub(crate) fn add(
    device: &mut CpuDevice,
    adapters: &[LoraRows<'_, CpuDevice>],
    x: &[f32],
    (out, outputs): (&mut [f32], usize),
) -> Result<(), DeviceError> {
    if adapters.is_empty() {
        return Ok(());
    }
    let mut scratch = std::mem::replace(&mut device.lora, Scratch::new()?);
    for adapter in adapters {
        add_one(device, adapter, (x, &mut scratch), (out, outputs))?;
    }
    device.lora = scratch;
    Ok(())
}

fn add_one(
    device: &mut CpuDevice,
    LoraRows { rows, weights }: &LoraRows<'_, CpuDevice>,
    (x, scratch): (&[f32], &mut Scratch),
    (out, outputs): (&mut [f32], usize),
) -> Result<(), DeviceError> {
    let Scratch { inputs, low, part, outputs: sums } = scratch;
    let (width, ranks, count) =
        (weights.down.in_features(), weights.down.out_features(), rows.len());
    inputs.reserve(count * width)?;
    low.reserve(count * ranks)?;
    let (inputs, low) = (&mut inputs[..count * width], &mut low[..count * ranks]);
    for (to, row) in inputs.chunks_exact_mut(width).zip(*rows) {
        to.copy_from_slice(&x[*row as usize * width..][..width]);
    }
    device.product((inputs, &[]), &weights.down, false, low)?;
    for up in &weights.up {
        let (rank, columns) = (up.ranks.len(), up.columns.len());
        part.reserve(count * rank)?;
        sums.reserve(count * columns)?;
        let (part, sums) = (&mut part[..count * rank], &mut sums[..count * columns]);
        for (to, from) in part.chunks_exact_mut(rank).zip(low.chunks_exact(ranks)) {
            to.copy_from_slice(&from[up.ranks.clone()]);
        }
        device.product((part, &[]), &up.weight, false, sums)?;
        for (sums, row) in sums.chunks_exact(columns).zip(*rows) {
            let own = &mut out[*row as usize * outputs..][..outputs][up.columns.clone()];
            own.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    }
    Ok(())
}
