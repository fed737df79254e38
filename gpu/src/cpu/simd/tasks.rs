//! Which thread computes what of an attention, and how spans of positions come together.
//!
//! A task has up to 32 pairs of one KV head and takes all that they see. Where one task would be
//! more than its share of the step (one long sequence among short ones, or alone), each span of 512
//! positions becomes a task, and the spans' results are merged in order afterwards. A task that
//! takes several spans merges them in the same way, so that nobody can tell from the bits.

use super::attention::{Attention, PAIRS, SPAN};
use crate::{cpu::math, shape::AttentionSpec, step::HostStep};

/// Which pairs a task computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionTask {
    pub(crate) sequence: usize,
    pub(crate) kv_head: usize,
    /// Pairs are numbered row by row, the group's query heads within.
    pub(crate) first: usize,
    pub(crate) pairs: usize,
    /// The one span that it takes, and which part that becomes; `None` takes all.
    pub(crate) alone: Option<(usize, usize)>,
}

/// Spans that became tasks, to be merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    /// The pairs, over all spans.
    task: AttentionTask,
    /// Where its parts begin, in order of position.
    first: usize,
    parts: usize,
}

/// The tasks of a step.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// They cover every pair, or every span of a pair, once; the dearest first.
    pub(crate) tasks: Vec<AttentionTask>,
    pub(crate) merges: Vec<Merge>,
    /// Parts that tasks of one span leave.
    pub(crate) parts: usize,
}

/// What some pairs have summed over some positions.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Greatest score and sum of exponentials of each pair; 0 where it saw nothing.
    pub(crate) peaks: Vec<f32>,
    pub(crate) sums: Vec<f32>,
    /// `[pair][value stride]`, weighted values.
    pub(crate) values: Vec<f32>,
}

// === impl Tasks ===

impl Tasks {
    /// The tasks of a step that `threads` threads share.
    pub(crate) fn of_step(step: &HostStep, spec: &AttentionSpec, threads: usize) -> Self {
        let group = spec.heads.query_heads / spec.heads.kv_heads;
        let mut whole = Vec::new();
        for (sequence, rows) in step.sequences.iter().enumerate() {
            let all = rows.count * group;
            for first in (0..all).step_by(PAIRS) {
                let pairs = PAIRS.min(all - first);
                let see = |pair: usize| {
                    let position = step.positions[rows.row + pair / group];
                    spec.mask.visible(position, (rows.computed + rows.count) as u32)
                };
                let (from, to) = (see(first).0 as usize, see(first + pairs - 1).1 as usize);
                whole.extend((0..spec.heads.kv_heads).map(|kv_head| {
                    let task = AttentionTask { sequence, kv_head, first, pairs, alone: None };
                    (pairs * (to - from), (from, to), task)
                }));
            }
        }
        // Of equal ones the first stays first.
        whole.sort_by_key(|(cost, ..)| std::cmp::Reverse(*cost));
        let total: usize = whole.iter().map(|(cost, ..)| cost).sum();
        let mut tasks = Self::default();
        for (cost, (from, to), task) in whole {
            let spans = from / SPAN..to.div_ceil(SPAN);
            if threads == 1 || spans.len() < 2 || cost * threads * 2 <= total {
                tasks.tasks.push(task);
                continue;
            }
            let merge = Merge { task, first: tasks.parts, parts: spans.len() };
            tasks.tasks.extend(
                spans.zip(tasks.parts..).map(|alone| AttentionTask { alone: Some(alone), ..task }),
            );
            tasks.parts += merge.parts;
            tasks.merges.push(merge);
        }
        tasks
    }
}

// === impl AttentionTask ===

impl AttentionTask {
    /// A pair's row and query head.
    #[inline(always)]
    pub(crate) fn place(&self, job: &Attention<'_>, pair: usize) -> (usize, usize) {
        let group = job.spec.heads.query_heads / job.spec.heads.kv_heads;
        let number = self.first + pair;
        let row = job.step.sequences[self.sequence].row + number / group;
        (row, self.kv_head * group + number % group)
    }
}

// === impl Merge ===

impl Merge {
    /// Merges the spans' parts and finishes the pairs.
    ///
    /// # Safety
    /// All tasks have run, and each merge is run once.
    pub(crate) unsafe fn run(&self, job: &Attention<'_>) {
        // SAFETY: as this function's; parts of merges are disjoint.
        let parts = unsafe { job.parts.piece(self.first, self.parts) };
        let Some((sums, others)) = parts.split_first_mut() else { return };
        others.iter_mut().for_each(|part| sums.take(part));
        // SAFETY: pairs of tasks are disjoint, and this one's tasks have left theirs to the merge.
        unsafe { sums.finish(job, &self.task) };
    }
}

// === impl Part ===

impl Part {
    /// Nothing seen by so many pairs.
    pub(crate) fn new(pairs: usize, value_stride: usize) -> Self {
        Self {
            peaks: vec![0.0; pairs],
            sums: vec![0.0; pairs],
            values: vec![0.0; pairs * value_stride],
        }
    }

    /// Merges what was summed over the positions behind, and leaves nothing there.
    #[inline(always)]
    pub(crate) fn take(&mut self, other: &mut Self) {
        let stride = self.values.len() / self.peaks.len();
        for pair in 0..self.peaks.len() {
            let own = &mut self.values[pair * stride..][..stride];
            let others = &mut other.values[pair * stride..][..stride];
            if other.sums[pair] == 0.0 {
                continue;
            }
            if self.sums[pair] == 0.0 {
                (self.peaks[pair], self.sums[pair]) = (other.peaks[pair], other.sums[pair]);
                own.copy_from_slice(others);
            } else {
                let highest = math::max(self.peaks[pair], other.peaks[pair]);
                let old = math::exp(self.peaks[pair] - highest);
                let new = math::exp(other.peaks[pair] - highest);
                self.peaks[pair] = highest;
                self.sums[pair] = self.sums[pair] * old + other.sums[pair] * new;
                for (own, other) in own.iter_mut().zip(&*others) {
                    *own = *own * old + other * new;
                }
            }
            (other.peaks[pair], other.sums[pair]) = (0.0, 0.0);
            others.fill(0.0);
        }
    }

    /// Divides by the sums and writes the rows.
    ///
    /// # Safety
    /// Nobody else writes this task's pairs.
    #[inline(always)]
    pub(crate) unsafe fn finish(&self, job: &Attention<'_>, task: &AttentionTask) {
        let stride = job.kv.layout.value_stride;
        let dim = job.kv.layout.head_dim;
        for pair in 0..task.pairs {
            let (row, head) = task.place(job, pair);
            let start = row * job.spec.heads.query_columns() + head * dim;
            // SAFETY: as this function's.
            let out = unsafe { job.out.piece(start, dim) };
            let scale = 1.0 / self.sums[pair];
            for (out, value) in out.iter_mut().zip(&self.values[pair * stride..]) {
                *out = value * scale;
            }
        }
    }
}
