//! Kernel paths: which code computes, chosen by what the machine has. All give the same bits, so
//! that the path is nobody's business but the log's; what counts elsewhere is which orders were
//! kept.

use super::simd;

/// Which code computes. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPath {
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 (F and BW).
    Avx512,
    /// The same with products of bytes (AVX512_VNNI).
    Avx512Vnni,
    /// The same with products of pairs of brain floats too (AVX512_BF16).
    Avx512Bf16,
    /// AVX-512 and VNNI with products on tiles (AMX).
    Amx,
    /// Whatever the compiler makes of arrays: NEON on AArch64.
    Portable,
    /// Plain loops.
    Reference,
}

impl KernelPath {
    /// All of them, those with more instructions first.
    pub const ALL: [Self; 7] = [
        Self::Amx,
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::Avx512,
        Self::Avx2,
        Self::Portable,
        Self::Reference,
    ];

    /// The name in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amx => "cpu/amx",
            Self::Avx2 => "cpu/avx2",
            Self::Avx512 => "cpu/avx512",
            Self::Avx512Bf16 => "cpu/avx512-bf16",
            Self::Avx512Vnni => "cpu/avx512-vnni",
            Self::Portable => "cpu/portable",
            Self::Reference => "cpu/reference",
        }
    }

    /// The fastest that this machine has.
    pub fn best() -> Self {
        let paths = Self::ALL.into_iter().filter(|path| path.available());
        let mut paths = paths.filter(|path| *path != Self::Avx512Bf16 || simd::has_fast_pairs());
        paths.next().unwrap_or(Self::Reference)
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        self == Self::Reference || simd::Isa::of(self).is_some()
    }
}

/// The orders that [`crate::cpu`] states, as execution fingerprints name them. A change of any
/// order, or of how anything is rounded, is another number: streams then move between hosts of the
/// two as between unlike devices.
const ORDERS: &str = "cpu/orders-3";

/// What a kernel path computes, as execution fingerprints name it: one name for all paths whose
/// results are the same to the bit, so that a stream may move between hosts with unlike processors
/// and lose nothing. Other devices' paths are names of their own.
pub fn arithmetic(kernel_path: &str) -> &str {
    match KernelPath::ALL.iter().any(|path| path.name() == kernel_path) {
        true => ORDERS,
        false => kernel_path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_give_the_same_bits_have_one_name() {
        let names: Vec<_> = KernelPath::ALL.iter().map(|path| arithmetic(path.name())).collect();
        assert!(names.iter().all(|name| *name == names[0]));
        assert_ne!(arithmetic("cuda/sm90"), names[0]);
    }
}
