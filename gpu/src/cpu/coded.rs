//! Codes of a quantized checkpoint as kernels want them: panels of 64 outputs, each
//! `[words][64]` with consecutive inputs in a word, and beside them scales by group.
//!
//! A weight becomes an `f32` while it is multiplied, and products then are those of `f32` weights
//! in the same order ([`crate::cpu`]): to the bit what a checkpoint that was dequantized to float32
//! gives. With one zero for all it is `(code - zero) * scale`; with zeros by group
//! `code * scale + offset` rounded once, where the offset is `-(zero * scale)`: the same number
//! wherever scales have sixteen bits. Eight-bit floats are `code * scale`.
//!
//! Which group an input belongs to is a table, so that activation order and groups that begin on
//! another rank cost a look-up per input, and no input changes its place.

use std::collections::BTreeMap;

use crate::{
    cpu::{
        aligned::Aligned,
        packed::{PANEL, zeros},
        simd::pool::Pool,
    },
    error::DeviceError,
    quant::{QuantizedPart, Zeros, codes::CodeKind},
};

/// Codes with their scales.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) kind: CodeKind,
    words: Aligned<u32>,
    /// Words of an output.
    depth: usize,
    /// The group of each input.
    pub(crate) group_of: Vec<u32>,
    groups: usize,
    /// `[panel][group][64]`.
    scales: Aligned<f32>,
    /// The same, or nothing where all groups have the same zero.
    offsets: Aligned<f32>,
    /// That one.
    pub(crate) zero: f32,
}

impl Coded {
    /// Packs the parts, stacked along their outputs.
    pub(crate) fn pack(parts: &[QuantizedPart<'_>], pool: &mut Pool) -> Result<Self, DeviceError> {
        let stacked = Stacked::new(parts)?;
        let kind = stacked.kind;
        let (group_of, groups) = stacked.groups();
        let (panels, inputs) = (stacked.outputs.div_ceil(PANEL), group_of.len());
        let depth = inputs.div_ceil((32 / kind.bits()) as usize);
        let mut words = zeros(panels, depth)?;
        pool.chunks(&mut words, PANEL * depth, &|panel, out| stacked.fill(panel, out));
        let zero = stacked.common_zero();
        let (mut scales, mut offsets) = (zeros(panels, groups.len())?, Aligned::zeroed(0)?);
        if zero.is_none() {
            offsets = zeros(panels, groups.len())?;
        }
        for (output, (part, row)) in stacked.each_output().enumerate() {
            let size = part.codes.outputs();
            for (group, members) in groups.iter().enumerate() {
                let from = members[stacked.places[output]] as usize * size + row;
                let to = (output / PANEL * groups.len() + group) * PANEL + output % PANEL;
                scales[to] = part.scales[from];
                if let Some(offset) = offsets.get_mut(to) {
                    *offset = part.offset(from);
                }
            }
        }
        let (groups, zero) = (groups.len(), zero.unwrap_or(0.0));
        Ok(Self { kind, words, depth, group_of, groups, scales, offsets, zero })
    }

    /// The words of a panel.
    pub(crate) fn panel(&self, panel: usize) -> &[u32] {
        &self.words[panel * self.depth * PANEL..][..self.depth * PANEL]
    }

    /// Words of an output.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Groups of inputs.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// The scales of a panel, and its offsets if it has any.
    pub(crate) fn scales(&self, panel: usize) -> (&[f32], &[f32]) {
        let size = self.groups * PANEL;
        let offsets = if self.has_offsets() { &self.offsets[panel * size..][..size] } else { &[] };
        (&self.scales[panel * size..][..size], offsets)
    }

    /// Whether zeros differ.
    pub(crate) fn has_offsets(&self) -> bool {
        !self.offsets.is_empty()
    }

    /// Weight of output `n` for input `k`.
    pub(crate) fn value(&self, n: usize, k: usize) -> f32 {
        let bits = self.kind.bits();
        let per_word = (32 / bits) as usize;
        let word = self.panel(n / PANEL)[k / per_word * PANEL + n % PANEL];
        let code = word >> ((k % per_word) as u32 * bits) & ((1 << bits) - 1);
        let (scales, offsets) = self.scales(n / PANEL);
        let at = self.group_of[k] as usize * PANEL + n % PANEL;
        match self.kind {
            CodeKind::Fp8 => widened(code) * scales[at],
            CodeKind::Int4 | CodeKind::Int8 if self.has_offsets() => {
                (code as f32).mul_add(scales[at], offsets[at])
            }
            CodeKind::Int4 | CodeKind::Int8 => (code as f32 - self.zero) * scales[at],
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len() + self.offsets.len() + self.group_of.len())
    }
}

/// An eight-bit float, exactly. Its bits mean the same in an `f32`, but for where exponents begin.
pub(crate) fn widened(code: u32) -> f32 {
    f32::from_bits((code & 0x80) << 24 | (code & 0x7f) << 20) * FP8_UNIT
}

/// Where an eight-bit float's bits are in an `f32`: the sign, and the rest right of four copies of
/// it.
pub(crate) const FP8_BITS: u32 = 0x87f0_0000;

/// `2^120`: exponents of eight-bit floats begin at -7, those of `f32` at -127.
pub(crate) const FP8_UNIT: f32 = f32::from_bits((120 + 127) << 23);

/// Parts on top of each other, found by output.
pub(crate) struct Stacked<'a> {
    parts: &'a [QuantizedPart<'a>],
    /// What the codes are kept as.
    kind: CodeKind,
    /// The part of each output.
    places: Vec<usize>,
    outputs: usize,
}

impl<'a> Stacked<'a> {
    pub(crate) fn new(parts: &'a [QuantizedPart<'a>]) -> Result<Self, DeviceError> {
        let broken = |why: &str| DeviceError::Contract(format!("quantized weights {why}"));
        let first = parts.first().ok_or_else(|| broken("without a part"))?;
        let has = |kind| parts.iter().any(|part| part.codes.kind() == kind);
        // Eight bits have room for four, where parts differ.
        let kind = match (has(CodeKind::Fp8), has(CodeKind::Int4), has(CodeKind::Int8)) {
            (true, false, false) => CodeKind::Fp8,
            (false, true, false) => CodeKind::Int4,
            (false, _, _) => CodeKind::Int8,
            (true, ..) => return Err(broken("of integers and floats")),
        };
        for part in parts {
            let (outputs, inputs) = (part.codes.outputs(), part.codes.inputs());
            if inputs != first.codes.inputs() {
                return Err(broken("of several widths"));
            }
            let groups = part.groups.iter().max().map_or(0, |group| *group as usize + 1);
            let has_zeros = match &part.zeros {
                Zeros::Each(zeros) | Zeros::Offsets(zeros) => zeros.len() == part.scales.len(),
                Zeros::Same(_) => true,
            };
            let fits = part.groups.len() == inputs && part.scales.len() >= groups * outputs;
            if !fits || !has_zeros || inputs == 0 {
                return Err(broken("whose groups, scales and zeros do not fit"));
            }
            if let Some(bias) = &part.bias
                && (bias.rows(), bias.columns()) != (1, outputs)
            {
                return Err(broken("whose bias does not fit"));
            }
        }
        let places = parts.iter().enumerate();
        let places: Vec<usize> =
            places.flat_map(|(at, part)| std::iter::repeat_n(at, part.codes.outputs())).collect();
        Ok(Self { parts, kind, outputs: places.len(), places })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Each output's part, and its row there.
    pub(crate) fn each_output(&self) -> impl Iterator<Item = (&'a QuantizedPart<'a>, usize)> {
        self.parts.iter().flat_map(|part| (0..part.codes.outputs()).map(move |row| (part, row)))
    }

    /// Fills a panel of words, consecutive inputs in a word. What lies beyond stays zero.
    pub(crate) fn fill(&self, panel: usize, out: &mut [u32]) {
        let bits = self.kind.bits();
        let per_word = (32 / bits) as usize;
        let mut lanes = [0u8; PANEL];
        for input in 0..self.parts[0].codes.inputs() {
            let (mut before, end) = (0, (panel + 1) * PANEL);
            for part in self.parts {
                let size = part.codes.outputs();
                let (from, to) = ((panel * PANEL).max(before), end.min(before + size));
                if from < to {
                    let lanes = &mut lanes[from - panel * PANEL..to - panel * PANEL];
                    part.codes.of_input(input, from - before, lanes);
                }
                before += size;
            }
            let shift = (input % per_word) as u32 * bits;
            let words = out[input / per_word * PANEL..][..PANEL].iter_mut();
            words.zip(lanes).for_each(|(word, code)| *word |= u32::from(code) << shift);
        }
    }

    /// The group of each input, and what each of those is in every part. Parts that were quantized
    /// together have the same groups.
    fn groups(&self) -> (Vec<u32>, Vec<Vec<u32>>) {
        let mut numbers: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        let mut groups = Vec::new();
        let of_input = |input: usize| {
            let members: Vec<u32> = self.parts.iter().map(|part| part.groups[input]).collect();
            *numbers.entry(members).or_insert_with_key(|members| {
                groups.push(members.clone());
                groups.len() as u32 - 1
            })
        };
        let group_of = (0..self.parts[0].codes.inputs()).map(of_input).collect();
        (group_of, groups)
    }

    /// The zero of all parts, if they have one.
    fn common_zero(&self) -> Option<f32> {
        let same = |part: &QuantizedPart<'_>| match part.zeros {
            Zeros::Same(zero) => Some(zero),
            Zeros::Each(_) | Zeros::Offsets(_) => None,
        };
        let first = same(&self.parts[0])?;
        self.parts.iter().all(|part| same(part) == Some(first)).then_some(first)
    }
}

impl QuantizedPart<'_> {
    /// What is added to a code times scale number `at`.
    fn offset(&self, at: usize) -> f32 {
        match &self.zeros {
            Zeros::Each(zeros) => -(zeros[at] * self.scales[at]),
            Zeros::Offsets(offsets) => offsets[at],
            Zeros::Same(zero) => -(zero * self.scales[at]),
        }
    }
}
