//! What this machine can do at most: how fast it multiplies by each kind of instruction that
//! kernels use, and how fast it reads memory. `troupe bench device` takes the time.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    cpu::{
        KernelPath,
        aligned::Aligned,
        simd::{Isa, pool::Pool},
    },
    error::DeviceError,
};

/// What a loop multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiply {
    /// Singles.
    F32,
    /// Brain floats, sums in singles.
    Bf16,
    /// Bytes, sums in words of 32 bits.
    Int8,
}

/// Threads, and memory for them to read.
#[derive(Debug)]
pub struct Probe {
    pool: Pool,
    memory: Aligned<f32>,
}

/// The kinds of arithmetic that this machine has instructions for, with the path that uses them.
pub fn kinds() -> Vec<(KernelPath, Multiply)> {
    let all = [
        (KernelPath::Portable, Multiply::F32),
        (KernelPath::Avx2, Multiply::F32),
        (KernelPath::Avx512, Multiply::F32),
        (KernelPath::Avx512Bf16, Multiply::Bf16),
        (KernelPath::Avx512Vnni, Multiply::Int8),
        (KernelPath::Amx, Multiply::Bf16),
        (KernelPath::Amx, Multiply::Int8),
    ];
    all.into_iter().filter(|(path, _)| path.available()).collect()
}

impl Probe {
    /// So many threads with `bytes` of memory, which they have touched.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; [`DeviceError::Failed`] if threads cannot be started.
    pub fn new(threads: usize, bytes: usize) -> Result<Self, DeviceError> {
        let mut pool = Pool::new(threads)?;
        let mut memory = Aligned::zeroed(bytes / size_of::<f32>())?;
        // What was never written is one page of zeros, however large.
        pool.chunks(&mut memory, PIECE, &|_, piece| piece.fill(1.0));
        Ok(Self { pool, memory })
    }

    /// Reads all of the memory once, shared by all threads; gives the bytes.
    pub fn read(&mut self) -> usize {
        let isa = best();
        let memory: &[f32] = &self.memory;
        let pieces = memory.len().div_ceil(PIECE);
        self.pool.run(pieces, &|piece| {
            let end = memory.len().min((piece + 1) * PIECE);
            std::hint::black_box(isa.map(|isa| isa.probe_read(&memory[piece * PIECE..end])));
        });
        size_of_val(memory)
    }

    /// Multiplies for some hundredths of a second on all threads; gives the operations, two for
    /// each product that is added. 0 where this machine has no such instruction.
    pub fn multiply(&mut self, path: KernelPath, of: Multiply) -> usize {
        let Some(isa) = Isa::of(path) else { return 0 };
        let operations = AtomicUsize::new(0);
        self.pool.run(self.pool.threads() * TASKS, &|_| {
            let (sum, count) = isa.probe_multiply(of, ROUNDS);
            std::hint::black_box(sum);
            operations.fetch_add(count, Ordering::Relaxed);
        });
        operations.into_inner()
    }
}

fn best() -> Option<Isa> {
    Isa::of(KernelPath::best())
}

/// Elements that a thread reads at a time: more than caches would keep of the whole.
const PIECE: usize = 1 << 20;
/// Tasks of each thread, so that one that starts late does less.
const TASKS: usize = 16;
/// Rounds of a task: about a millisecond.
const ROUNDS: usize = 300_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_multiplies_and_all_memory_is_read() {
        let mut probe = Probe::new(2, 3 * 4 * PIECE + 64).unwrap();
        assert_eq!(probe.read(), 3 * 4 * PIECE + 64);
        for (path, of) in kinds().into_iter().filter(|(path, _)| *path != KernelPath::Portable) {
            assert!(probe.multiply(path, of) >= 2 * TASKS * ROUNDS, "{}: {of:?}", path.name());
        }
    }
}
