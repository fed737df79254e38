//! Element types that weights, activations and KV are stored in, and the one place where a value is
//! widened or rounded.
//!
//! Arithmetic is always in `f32`; these types only say how a value lies in memory. Widening is
//! exact, rounding is to nearest, ties to even, the same on every path.

use half::{bf16, f16};
use troupe_runtime::wire::kv::WireDtype;

/// How a number lies in memory, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Brain float: the upper half of an `f32`.
    Bf16,
    /// IEEE half. Values beyond 65504 become infinite when rounded to it.
    F16,
    /// IEEE single.
    F32,
}

impl Dtype {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The type that a safetensors header names (`F32`, `F16`, `BF16`), if it is one of ours.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        match name {
            "BF16" => Some(Self::Bf16),
            "F16" => Some(Self::F16),
            "F32" => Some(Self::F32),
            _ => None,
        }
    }

    /// The type as tensors on the wire name it.
    pub const fn wire(self) -> WireDtype {
        match self {
            Self::Bf16 => WireDtype::Bf16,
            Self::F16 => WireDtype::F16,
            Self::F32 => WireDtype::F32,
        }
    }

    /// Reads element `index` of `bytes` as `f32`, exactly.
    ///
    /// # Panics
    /// If `bytes` is too short.
    pub fn read(self, bytes: &[u8], index: usize) -> f32 {
        let at = index * self.size();
        match self {
            Self::Bf16 => bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
            Self::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
            Self::F32 => {
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
        }
    }

    /// Appends `value`, rounded to this type, to `bytes`.
    pub fn write(self, bytes: &mut Vec<u8>, value: f32) {
        match self {
            Self::Bf16 => bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            Self::F16 => bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            Self::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        })
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bfloat16" | "bf16" => Ok(Self::Bf16),
            "float16" | "half" | "fp16" => Ok(Self::F16),
            "float32" | "float" | "fp32" => Ok(Self::F32),
            other => Err(format!("`{other}` is no dtype: bfloat16, float16 and float32 are")),
        }
    }
}
