//! Numbers to try kernels on, in the element types that they have, and how results are compared.

use troupe_gpu::{
    backend::Backend,
    cpu::{CpuDevice, CpuOptions, KernelPath, buffer::CpuBuffer},
    dtype::Dtype,
};

/// Types of activations, as the ends of kernels' names have them.
pub(crate) const TYPES: [(&str, Dtype); 3] =
    [("bf16", Dtype::Bf16), ("f16", Dtype::F16), ("f32", Dtype::F32)];

/// The number of a type as kernels take it (`Type` in common.cuh).
pub(crate) fn code(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::Bf16 => 0,
        Dtype::F16 => 1,
        Dtype::F32 => 2,
    }
}

/// Numbers between -1 and 1 that follow from a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The same as numbers of a type: what is left of them, and their bytes.
pub(crate) fn typed_noise(dtype: Dtype, seed: u64, len: usize) -> (Vec<f32>, Vec<u8>) {
    let bytes = bytes(dtype, &noise(seed, len));
    (values(dtype, &bytes), bytes)
}

pub(crate) fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.iter().for_each(|value| dtype.write(&mut bytes, *value));
    bytes
}

pub(crate) fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    (0..bytes.len() / dtype.size()).map(|at| dtype.read(bytes, at)).collect()
}

pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// The judge.
pub(crate) fn reference() -> CpuDevice {
    CpuDevice::new(CpuOptions { threads: 1, path: Some(KernelPath::Reference) }).unwrap()
}

/// Live rows on the judge.
pub(crate) fn rows(device: &mut CpuDevice, values: &[f32], columns: usize) -> CpuBuffer {
    let count = values.len() / columns;
    let mut buffer = device.alloc(count, columns, Dtype::F32).unwrap();
    device.upload(&mut buffer, count, 0..columns, &bytes(Dtype::F32, values)).unwrap();
    buffer
}

/// Room on the judge for as many rows.
pub(crate) fn room(device: &mut CpuDevice, rows: usize, columns: usize) -> CpuBuffer {
    device.alloc(rows, columns, Dtype::F32).unwrap()
}

/// Fails unless every number is within `allowed` times the largest expected magnitude of the
/// expected one, beside the half step that rounding to `dtype` takes.
pub(crate) fn near(what: &str, dtype: Dtype, found: &[f32], expected: &[f32], allowed: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let step = match dtype {
        Dtype::Bf16 => 1.01 / 256.0,
        Dtype::F16 => 1.01 / 2048.0,
        Dtype::F32 => 0.0,
    };
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let room = allowed * largest + step * expected.abs();
        let close = (found - expected).abs() <= room;
        assert!(close, "{what}: number {at} is {found}, not {expected} (allowed {room})");
    }
}

/// Fails unless every number has the bits of the expected one.
pub(crate) fn same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: {at}: {found}, not {expected}");
    }
}
