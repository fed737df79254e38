//! Where codes lie in a file. Formats differ in whether the codes of a word are neighbors along
//! inputs or outputs and in which dimension comes first; a device packs its own layout from one
//! input's codes of some outputs at a time, which every format can give without a detour.

use std::ops::Range;

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

impl<'a> Codes<'a> {
    /// A part of the codes in `bytes`, of which the caller knows that all of the whole matrix are
    /// there; `stride` is the file's innermost dimension.
    pub fn new(
        bytes: &'a [u8],
        (layout, kind): (CodeLayout, CodeKind),
        stride: usize,
        (outputs, inputs): (Range<usize>, Range<usize>),
    ) -> Self {
        Self { bytes, layout, kind, stride, outputs, inputs }
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

/// Which code of its word is output `output`'s.
pub(super) fn shuffled(output: usize) -> u32 {
    [0, 4, 1, 5, 2, 6, 3, 7][output % 8]
}
