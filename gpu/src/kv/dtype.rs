//! What keys and values are stored as.
//!
//! Floats are rounded as they are written. Int8 keeps, for each token and head, one scale for the
//! key and one for the value beside the integers: never one for a block, whose scale would change
//! as the block fills and with it what earlier tokens hold.

use troupe_runtime::wire::kv::WireDtype;

use crate::dtype::Dtype;

/// How an element of a key or value lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// Brain floats.
    Bf16,
    /// IEEE halves.
    F16,
    /// IEEE singles.
    F32,
    /// Signed bytes from -127 to 127, times the `f32` scale of their token and head.
    Int8,
}

impl KvDtype {
    /// Bytes of an element, scales aside.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::Int8 => 1,
        }
    }

    /// Whether each token and head has scales.
    pub const fn is_scaled(self) -> bool {
        matches!(self, Self::Int8)
    }

    /// Bytes of one key or value of `elements` where blocks travel: its elements and, behind them,
    /// its scale.
    pub const fn row_bytes(self, elements: usize) -> usize {
        elements * self.size() + if self.is_scaled() { size_of::<f32>() } else { 0 }
    }

    /// The type as the wire names it.
    pub const fn wire(self) -> WireDtype {
        match self {
            Self::Bf16 => WireDtype::Bf16,
            Self::F16 => WireDtype::F16,
            Self::F32 => WireDtype::F32,
            Self::Int8 => WireDtype::I8,
        }
    }

    /// The type as flags, fingerprints and prefix hashes name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::Int8 => "int8",
        }
    }
}

impl From<Dtype> for KvDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
            Dtype::F32 => Self::F32,
        }
    }
}

impl std::fmt::Display for KvDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One key or value in eight bits: its scale, and what each element is divided by it. The greatest
/// magnitude becomes 127; a row of zeros has the scale 0.
pub(crate) fn quantize(row: &[f32]) -> (f32, impl Fn(f32) -> i8 + use<>) {
    let most = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let inverse = if most > 0.0 { MOST / most } else { 0.0 };
    // A conversion to an integer saturates, so that no rounding can leave the range.
    (most / MOST, move |x| (x * inverse).round_ties_even().clamp(-MOST, MOST) as i8)
}

const MOST: f32 = 127.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_are_within_half_a_step() {
        for row in [[0.0; 4], [1.0, -3.0, 0.5, 2.9], [1e-30, -1e-37, 0.0, 7e-31]] {
            let (scale, narrow) = quantize(&row);
            for x in row {
                let back = f32::from(narrow(x)) * scale;
                assert!((back - x).abs() <= 0.5001 * scale, "{x} became {back}");
            }
        }
    }

    #[test]
    fn the_least_number_does_not_become_infinite() {
        let (scale, narrow) = quantize(&[f32::from_bits(1), 0.0]);
        assert!(scale.is_finite());
        assert_eq!(narrow(0.0), 0);
    }
}
