//! Where codes lie in a file. Formats differ in whether the codes of a word are neighbors along
//! inputs or outputs and in which dimension comes first; a device packs its own layout from one
//! input's codes of some outputs at a time, which every format can give without a detour.

use std::ops::Range;

use super::gguf::paired_row;

/// Codes of a matrix `[out, in]`, or of a part of it, in a mapped file.
#[derive(Clone, Debug)]
pub struct Codes<'a> {
    bytes: &'a [u8],
    layout: CodeLayout,
    kind: CodeKind,
    /// Words (or bytes) between those of neighboring rows in the file.
    stride: usize,
    outputs: Range<usize>,
    inputs: Range<usize>,
    /// The size of a head whose rotated pairs lie side by side.
    pairs: Option<usize>,
}

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// Eight-bit floats with four bits of exponent and three of fraction.
    Fp8,
    /// Unsigned integers of four bits.
    Int4,
    /// Unsigned integers of eight bits.
    Int8,
}

/// How codes follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeLayout {
    /// `[out]` rows of llama.cpp's blocks.
    Blocks(BlockKind),
    /// `[out][in]` bytes as they are.
    Bytes,
    /// `[in / per word][out]` words, the lowest bits the first input's.
    InputWords,
    /// `[in][out / 8]` words of eight outputs in the order 0, 2, 4, 6, 1, 3, 5, 7.
    OutputWords,
    /// `[out][in / per word]` words, the lowest bits the first input's.
    RowWords,
    /// `[out][in]` signed bytes; 128 is added.
    SignedBytes,
}

/// llama.cpp's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// 32 of four bits.
    Q4_0,
    /// 256 of four bits.
    Q4K,
    /// 256 of six bits.
    Q6K,
    /// 32 signed bytes.
    Q8_0,
}

impl<'a> Codes<'a> {
    /// A part of the codes in `bytes`, of which the caller knows that all of the whole matrix are
    /// there; `stride` is the file's innermost dimension.
    pub fn new(
        bytes: &'a [u8],
        (layout, kind): (CodeLayout, CodeKind),
        stride: usize,
        (outputs, inputs): (Range<usize>, Range<usize>),
    ) -> Self {
        Self { bytes, layout, kind, stride, outputs, inputs, pairs: None }
    }

    /// The same of a file that has the elements of heads of such a size in pairs.
    #[must_use]
    pub fn with_pairs(self, pairs: Option<usize>) -> Self {
        Self { pairs, ..self }
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// What they are.
    pub fn kind(&self) -> CodeKind {
        self.kind
    }

    /// Bits of each.
    pub fn bits(&self) -> u32 {
        self.kind.bits()
    }

    /// Puts the codes of input `input` for the outputs from `first` into `out`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn of_input(&self, input: usize, first: usize, out: &mut [u8]) {
        assert!(input < self.inputs.len() && first + out.len() <= self.outputs.len());
        let (input, first) = (self.inputs.start + input, self.outputs.start + first);
        let (bits, mask) = (self.bits(), (1u32 << self.bits()) - 1);
        let per_word = (32 / bits) as usize;
        let word = |at: usize| {
            let bytes = &self.bytes[at * 4..][..4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let shift = (input % per_word) as u32 * bits;
        // At most eight bits are left by the mask.
        let code = |word: u32, shift: u32| (word >> shift & mask) as u8;
        match self.layout {
            CodeLayout::Blocks(kind) => {
                let (block, at) = (input / kind.elements() * kind.bytes(), input % kind.elements());
                for (output, out) in (first..).zip(out) {
                    let row = self.pairs.map_or(output, |size| paired_row(output, size));
                    *out = kind.code(&self.bytes[row * self.stride + block..][..kind.bytes()], at);
                }
            }
            CodeLayout::Bytes | CodeLayout::SignedBytes => {
                let flip = if self.layout == CodeLayout::Bytes { 0 } else { 0x80 };
                let column = self.bytes[first * self.stride + input..].iter().step_by(self.stride);
                out.iter_mut().zip(column).for_each(|(out, byte)| *out = byte ^ flip);
            }
            CodeLayout::InputWords => {
                let row = input / per_word * self.stride + first;
                let words = self.bytes[row * 4..][..out.len() * 4].as_chunks::<4>().0;
                for (out, bytes) in out.iter_mut().zip(words) {
                    *out = code(u32::from_le_bytes(*bytes), shift);
                }
            }
            CodeLayout::OutputWords => {
                let row = input * self.stride;
                for (output, out) in (first..).zip(out) {
                    *out = code(word(row + output / per_word), shuffled(output) * bits);
                }
            }
            CodeLayout::RowWords => {
                let column = input / per_word;
                for (output, out) in (first..).zip(out) {
                    *out = code(word(output * self.stride + column), shift);
                }
            }
        }
    }
}

impl CodeKind {
    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Fp8 | Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }
}

impl BlockKind {
    /// All of them, with their names.
    pub const TABLE: [(Self, &'static str); 4] =
        [(Self::Q4_0, "Q4_0"), (Self::Q4K, "Q4_K"), (Self::Q6K, "Q6_K"), (Self::Q8_0, "Q8_0")];

    /// Inputs of a block.
    pub const fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4K => 144,
            Self::Q6K => 210,
            Self::Q8_0 => 34,
        }
    }

    /// Inputs that share a scale.
    pub const fn group(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4K | Self::Q8_0 => 32,
            Self::Q6K => 16,
        }
    }

    /// What its codes are kept as.
    pub const fn codes(self) -> CodeKind {
        match self {
            Self::Q4_0 | Self::Q4K => CodeKind::Int4,
            Self::Q6K | Self::Q8_0 => CodeKind::Int8,
        }
    }

    /// Code `at` of a block.
    fn code(self, block: &[u8], at: usize) -> u8 {
        let nibble = |byte: u8, is_high: bool| if is_high { byte >> 4 } else { byte & 15 };
        match self {
            // Scale, then codes: the second half above the first.
            Self::Q4_0 => nibble(block[2 + at % 16], at >= 16),
            Self::Q8_0 => block[2 + at] ^ 0x80,
            // Two factors and twelve bytes of scales, then 64 at a time as above.
            Self::Q4K => nibble(block[16 + at / 64 * 32 + at % 32], at % 64 >= 32),
            // Lower bits, 128 at a time in two halves above each other; then upper bits, four
            // quarters above each other.
            Self::Q6K => {
                let (half, quarter, place) = (at / 128, at % 128 / 32, at % 32);
                let low = block[half * 64 + quarter % 2 * 32 + place];
                let high = block[128 + half * 32 + place] >> (2 * quarter) & 3;
                nibble(low, quarter >= 2) | high << 4
            }
        }
    }
}

/// Which code of its word is output `output`'s.
pub(super) fn shuffled(output: usize) -> u32 {
    [0, 4, 1, 5, 2, 6, 3, 7][output % 8]
}
