//! Every reduction in plain loops, in exactly the order that [`crate::cpu`] states: the truth that
//! fast kernels are compared with, bit for bit. It is a kernel path of its own (`cpu/reference`),
//! single-threaded and slow.

use std::ops::Range;

use crate::{
    backend::PreparedLinear,
    cpu::{
        integers::{self, GROUP},
        math::{exp, max, soft_cap, tree},
        packed::{CpuLinear, Elements},
        pairs::{self, BLOCK},
        simd::{
            attention::{CHUNK, SPAN},
            product::CHAIN,
        },
    },
    kv::{KvDtype, KvPool, pool::KvSlot},
    shape::AttentionSpec,
    step::{GroupTables, HostStep},
};

/// `out = x * weight^T (+ bias)`, or added to `out`.
pub(crate) fn linear((x, peaks): (&[f32], &[f32]), weight: &CpuLinear, add: bool, out: &mut [f32]) {
    let (inputs, outputs) = (weight.in_features(), weight.out_features());
    let blocks = inputs.div_ceil(GROUP);
    let paired = matches!(weight.elements, Elements::Bf16(..));
    let x = match weight.elements {
        Elements::Coded(_) => weight.rounded(x, peaks),
        _ => x.iter().map(|x| if paired { pairs::rounded(*x) } else { *x }).collect(),
    };
    let rows = x.chunks_exact(inputs).zip(out.chunks_exact_mut(outputs));
    for (row, (x, out)) in rows.enumerate() {
        for (n, out) in out.iter_mut().enumerate() {
            let mut value = match &weight.elements {
                Elements::Bf16(..) => pairs::product(x, |k| weight.get(n, k)),
                Elements::Coded(_) | Elements::F16(_) | Elements::F32(_) => product(x, weight, n),
                Elements::Integers(own) => {
                    let integer = |k| own.get(n, k, blocks);
                    let scale = |group| own.scale(n, group, blocks);
                    integers::product(own.bits, (x, peaks.get(row)), integer, scale)
                }
            };
            if let Some(bias) = &weight.bias {
                value += bias[n];
            }
            *out = if add { *out + value } else { value };
        }
    }
}

fn product(x: &[f32], weight: &CpuLinear, n: usize) -> f32 {
    let mut total = None;
    for (chain, x) in x.chunks(CHAIN).enumerate() {
        let mut sum = 0.0;
        for (at, &x) in x.iter().enumerate() {
            sum = x.mul_add(weight.get(n, chain * CHAIN + at), sum);
        }
        total = Some(total.map_or(sum, |total: f32| total + sum));
    }
    total.unwrap_or(0.0)
}

/// Element `i` in lane `i % 16`, then the tree.
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for (at, &x) in x.iter().enumerate() {
        let lane: &mut f32 = &mut lanes[at % 16];
        *lane = x.mul_add(x, *lane);
    }
    tree(lanes)
}

/// What attention reads.
pub(crate) struct Attention<'a> {
    pub(crate) spec: AttentionSpec,
    pub(crate) step: &'a HostStep,
    pub(crate) tables: &'a GroupTables,
    pub(crate) kv: &'a KvPool,
    pub(crate) layer: usize,
}

impl Attention<'_> {
    /// Attends for all rows: from the first columns of `qkv` (of `columns` columns) to `out`.
    pub(crate) fn run(&self, qkv: &[f32], columns: usize, out: &mut [f32]) {
        let heads = self.spec.heads;
        for (number, rows) in self.step.sequences.iter().enumerate() {
            for row in rows.row..rows.row + rows.count {
                let position = self.step.positions[row];
                let end = (rows.computed + rows.count) as u32;
                let (from, to) = self.spec.mask.visible(position, end);
                for head in 0..heads.query_heads {
                    let query = &qkv[row * columns + head * heads.head_dim..][..heads.head_dim];
                    let at = row * heads.query_columns() + head * heads.head_dim;
                    let out = &mut out[at..at + heads.head_dim];
                    self.head(number, head, (from as usize, to as usize), (query, out));
                }
            }
        }
    }

    /// One query over its visible positions.
    fn head(
        &self,
        sequence: usize,
        head: usize,
        (from, to): (usize, usize),
        (query, out): (&[f32], &mut [f32]),
    ) {
        let group = self.spec.heads.query_heads / self.spec.heads.kv_heads;
        let table = self.tables.of_sequence(sequence);
        let size = self.kv.spec().block_size;
        let slot = |position: usize| KvSlot {
            layer: self.layer,
            block: table[position / size] as usize,
            head: head / group,
            position: position % size,
        };
        let (mut peak, mut sum) = (0.0f32, 0.0f32);
        for span in from / SPAN..to.div_ceil(SPAN) {
            let seen = from.max(span * SPAN)..to.min((span + 1) * SPAN);
            let mut part = vec![0.0; out.len()];
            let (part_peak, part_sum) = self.span(query, seen, &slot, &mut part);
            if sum == 0.0 {
                (peak, sum) = (part_peak, part_sum);
                out.copy_from_slice(&part);
                continue;
            }
            let highest = max(peak, part_peak);
            let (old, new) = (exp(peak - highest), exp(part_peak - highest));
            (peak, sum) = (highest, sum * old + part_sum * new);
            for (out, part) in out.iter_mut().zip(part) {
                *out = *out * old + part * new;
            }
        }
        let scale = 1.0 / sum;
        for out in out {
            *out *= scale;
        }
    }

    /// One query over its visible positions of a span: values before they are divided by the sum
    /// of weights, which comes back beside the greatest score.
    fn span(
        &self,
        query: &[f32],
        Range { start: from, end: to }: Range<usize>,
        slot: &impl Fn(usize) -> KvSlot,
        out: &mut [f32],
    ) -> (f32, f32) {
        let (mut peak, mut sum) = (0.0f32, 0.0f32);
        for chunk in from / CHUNK..to.div_ceil(CHUNK) {
            let seen = from.max(chunk * CHUNK)..to.min((chunk + 1) * CHUNK);
            let scores: Vec<f32> = seen.clone().map(|at| self.score(query, slot(at))).collect();
            let chunk_peak = scores.iter().fold(f32::NEG_INFINITY, |a, &b| max(a, b));
            let weights: Vec<f32> = scores.iter().map(|score| exp(score - chunk_peak)).collect();
            let mut lanes = [0.0; 16];
            for (at, weight) in seen.clone().zip(&weights) {
                lanes[at % 16] += weight;
            }
            let paired = self.is_paired();
            let highest = if sum == 0.0 { chunk_peak } else { max(peak, chunk_peak) };
            let old = if sum == 0.0 { 0.0 } else { exp(peak - highest) };
            let new = exp(chunk_peak - highest);
            (peak, sum) = (highest, sum * old + tree(lanes) * new);
            for (dim, out) in out.iter_mut().enumerate() {
                let mut value = 0.0;
                let mut chains = [0.0; 2];
                for (at, weight) in seen.clone().zip(&weights) {
                    let own = self.kv.value(slot(at), dim);
                    if !paired {
                        value = (weight * self.kv.scale(slot(at)).1).mul_add(own, value);
                        continue;
                    }
                    let chain: &mut f32 = &mut chains[at % 2];
                    *chain = pairs::rounded(*weight).mul_add(own, *chain);
                    if (at + 1) % BLOCK == 0 || at + 1 == seen.end {
                        value += chains[0] + chains[1];
                        chains = [0.0; 2];
                    }
                }
                *out = *out * old + value * new;
            }
        }
        (peak, sum)
    }

    /// Whether keys and values are multiplied as pairs of brain floats.
    fn is_paired(&self) -> bool {
        self.kv.spec().dtype == KvDtype::Bf16
    }

    fn score(&self, query: &[f32], slot: KvSlot) -> f32 {
        let mut sum = 0.0;
        if self.is_paired() {
            let query: Vec<f32> = query.iter().map(|query| pairs::rounded(*query)).collect();
            sum = pairs::product(&query, |dim| self.kv.key(slot, dim));
        } else {
            for (dim, query) in query.iter().enumerate() {
                sum = query.mul_add(self.kv.key(slot, dim), sum);
            }
        }
        let score = sum * self.kv.scale(slot).0 * self.spec.scale;
        self.spec.soft_cap.map_or(score, |cap| soft_cap(score, cap))
    }
}
