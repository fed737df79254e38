//! What a worker knows of the sequences: plans are diffs, this is what they are diffs of.
//!
//! Every worker of a group is given the same plans in the same order and so holds the same mirror.
//! From a plan it makes the rank's [`StepBatch`]; at the last stage also what sampling needs. A
//! plan that does not fit the mirror (an unknown sequence, a gap in positions, a step out of order)
//! is an error and ends the rank: going on would compute with wrong state.

use std::collections::BTreeMap;

use troupe_gpu::executor::{BatchSequence, LogitRows, SampleRequest, Sampled, StepBatch};
use troupe_runtime::{
    id::{BlockId, Epoch, SequenceId, StepId},
    wire::{
        generate::SamplingOptions,
        step::{
            NewSequence, Outcome, ResumedSequence, RunningSequence, SampledTokens, SequenceResult,
            Span, StepPlan,
        },
    },
};

/// The sequences of one group as its workers know them.
#[derive(Clone, Debug)]
pub struct Mirror {
    epoch: Epoch,
    block_size: u32,
    last_step: StepId,
    sequences: BTreeMap<SequenceId, Mirrored>,
}

#[derive(Clone, Debug)]
struct Mirrored {
    tokens: Vec<u32>,
    prompt_len: u32,
    choice: u32,
    seed: u64,
    options: SamplingOptions,
    tables: Vec<Vec<BlockId>>,
    computed: u32,
}

/// A sequence's part of a batch that has logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    sequence: SequenceId,
    span: Span,
    rows: (usize, usize),
}

impl Mirror {
    /// An empty mirror for one incarnation.
    pub fn new(epoch: Epoch, block_size: u32) -> Self {
        Self { epoch, block_size, last_step: StepId(0), sequences: BTreeMap::new() }
    }

    /// Takes a plan and makes the batch that it asks for.
    ///
    /// # Errors
    /// What does not fit; the mirror is then useless.
    pub fn apply(&mut self, plan: &StepPlan) -> Result<StepBatch, String> {
        if plan.epoch != self.epoch {
            return Err(format!("a plan of epoch {}, this is {}", plan.epoch, self.epoch));
        }
        if plan.step.0 != self.last_step.0 + 1 {
            return Err(format!("step {} after step {}", plan.step, self.last_step));
        }
        self.last_step = plan.step;
        for id in &plan.finished {
            self.sequences.remove(id);
        }
        for id in &plan.preempted {
            let sequence = known(&mut self.sequences, *id)?;
            sequence.computed = 0;
            sequence.tables.iter_mut().for_each(Vec::clear);
        }
        let mut batch = StepBatch { step: plan.step, ..StepBatch::default() };
        for new in &plan.new {
            let sequence = self.sequences.entry(new.sequence).or_insert_with(|| mirrored(new));
            sequence.extend(&mut batch, new.sequence, new.span, self.block_size)?;
        }
        for resumed in &plan.resumed {
            let sequence = known(&mut self.sequences, resumed.sequence)?;
            sequence.resume(resumed);
            sequence.extend(&mut batch, resumed.sequence, resumed.span, self.block_size)?;
        }
        for running in &plan.running {
            let sequence = known(&mut self.sequences, running.sequence)?;
            sequence.grow(running)?;
            sequence.extend(&mut batch, running.sequence, running.span, self.block_size)?;
        }
        Ok(batch)
    }

    /// What the last stage's sampling needs for the batch that [`Mirror::apply`] made of this plan,
    /// in batch order.
    pub fn requests(&self, plan: &StepPlan, batch: &StepBatch) -> Vec<SampleRequest<'_>> {
        asked(plan, batch)
            .filter_map(|asked| {
                let sequence = self.sequences.get(&asked.sequence)?;
                Some(SampleRequest {
                    sequence: asked.sequence,
                    rows: asked.rows,
                    sample: asked.span.sample,
                    tokens: &sequence.tokens,
                    prompt_len: sequence.prompt_len as usize,
                    computed: asked.span.computed as usize,
                    options: &sequence.options,
                    seed: sequence.seed,
                    choice: sequence.choice,
                    mask: None,
                })
            })
            .collect()
    }

    /// Sampling's answers as the leader is told them.
    pub fn outcomes(requests: &[SampleRequest<'_>], sampled: Vec<Sampled>) -> Vec<SequenceResult> {
        requests
            .iter()
            .zip(sampled)
            .map(|(request, sampled)| SequenceResult {
                sequence: request.sequence,
                outcome: outcome(sampled),
            })
            .collect()
    }
}

impl Mirrored {
    fn resume(&mut self, resumed: &ResumedSequence) {
        self.tokens.extend(&resumed.appended);
        self.tables.clone_from(&resumed.block_tables);
        self.computed = 0;
    }

    fn grow(&mut self, running: &RunningSequence) -> Result<(), String> {
        self.tokens.extend(&running.appended);
        if self.tables.len() != running.new_blocks.len() {
            return Err(format!(
                "sequence {} has {} block tables, the plan {}",
                running.sequence,
                self.tables.len(),
                running.new_blocks.len()
            ));
        }
        for (table, new) in self.tables.iter_mut().zip(&running.new_blocks) {
            table.extend(new);
        }
        Ok(())
    }

    /// Adds this sequence's rows to a batch.
    fn extend(
        &mut self,
        batch: &mut StepBatch,
        id: SequenceId,
        span: Span,
        block_size: u32,
    ) -> Result<(), String> {
        let (first, end) = (span.computed as usize, (span.computed + span.count) as usize);
        if span.computed != self.computed || end > self.tokens.len() {
            return Err(format!(
                "sequence {id} is asked for {first}..{end}, it has {} of {} tokens computed",
                self.computed,
                self.tokens.len()
            ));
        }
        let blocks = end.div_ceil(block_size as usize);
        if self.tables.iter().any(|table| table.len() < blocks) {
            return Err(format!("sequence {id} has too few blocks for {end} positions"));
        }
        batch.sequences.push(BatchSequence {
            sequence: id,
            row: batch.tokens.len() as u32,
            count: span.count,
            computed: span.computed,
            block_tables: self.tables.clone(),
            logits: self.logit_rows(span),
        });
        batch.tokens.extend(&self.tokens[first..end]);
        batch.positions.extend(span.computed..span.computed + span.count);
        self.computed += span.count;
        Ok(())
    }

    fn logit_rows(&self, span: Span) -> LogitRows {
        // Prompt log-probabilities are computed once: not again after output exists.
        let in_prompt =
            span.computed < self.prompt_len && self.tokens.len() == self.prompt_len as usize;
        match (self.options.prompt_logprobs, span.sample) {
            (Some(_), _) if in_prompt => LogitRows::All,
            (_, true) => LogitRows::Last,
            (_, false) => LogitRows::None,
        }
    }
}

fn mirrored(new: &NewSequence) -> Mirrored {
    Mirrored {
        tokens: new.tokens.clone(),
        prompt_len: new.prompt_len,
        choice: new.choice,
        seed: new.seed,
        options: new.options.clone(),
        tables: new.block_tables.clone(),
        computed: 0,
    }
}

fn known(
    sequences: &mut BTreeMap<SequenceId, Mirrored>,
    id: SequenceId,
) -> Result<&mut Mirrored, String> {
    sequences.get_mut(&id).ok_or_else(|| format!("sequence {id} is not known"))
}

/// The batch's sequences that have logits, each with its rows of the logits.
fn asked<'a>(plan: &'a StepPlan, batch: &'a StepBatch) -> impl Iterator<Item = Asked> + use<'a> {
    let mut next = 0;
    plan.spans().zip(&batch.sequences).filter_map(move |((sequence, span), entry)| {
        let count = match entry.logits {
            LogitRows::None => return None,
            LogitRows::Last => 1,
            LogitRows::All => entry.count as usize,
        };
        let rows = (next, count);
        next += count;
        Some(Asked { sequence, span, rows })
    })
}

fn outcome(sampled: Sampled) -> Outcome {
    if let Some(why) = sampled.failed {
        return Outcome::Failed(why);
    }
    let Some(token) = sampled.token else {
        return Outcome::PromptLogprobs(sampled.prompt_logprobs);
    };
    Outcome::Tokens(SampledTokens {
        tokens: vec![token],
        logprobs: sampled.logprobs.into_iter().collect(),
        prompt_logprobs: sampled.prompt_logprobs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: u64, tokens: &[u32], span: Span) -> NewSequence {
        NewSequence {
            sequence: SequenceId(id),
            tokens: tokens.to_vec(),
            prompt_len: tokens.len() as u32,
            choice: 0,
            seed: 1,
            options: SamplingOptions::default(),
            adapter: None,
            traceparent: None,
            block_tables: vec![vec![BlockId(3), BlockId(1)]],
            span,
        }
    }

    #[test]
    fn a_new_sequence_then_a_decode_make_the_right_rows() {
        let mut mirror = Mirror::new(Epoch::default(), 4);
        let span = Span { computed: 0, count: 3, sample: true };
        let plan = StepPlan {
            step: StepId(1),
            new: vec![new(1, &[5, 6, 7], span)],
            ..StepPlan::default()
        };
        let batch = mirror.apply(&plan).expect("fits");
        assert_eq!(
            (batch.tokens.as_slice(), batch.positions.as_slice()),
            (&[5, 6, 7][..], &[0, 1, 2][..])
        );
        assert_eq!(mirror.requests(&plan, &batch)[0].rows, (0, 1));
        let running = RunningSequence {
            sequence: SequenceId(1),
            appended: vec![9],
            placeholder: None,
            new_blocks: vec![vec![]],
            drafts: vec![],
            span: Span { computed: 3, count: 1, sample: true },
        };
        let plan = StepPlan { step: StepId(2), running: vec![running], ..StepPlan::default() };
        let batch = mirror.apply(&plan).expect("fits");
        assert_eq!((batch.tokens[0], batch.positions[0]), (9, 3));
        assert_eq!(mirror.requests(&plan, &batch)[0].tokens, [5, 6, 7, 9]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut mirror = Mirror::new(Epoch::default(), 4);
        let gap = StepPlan { step: StepId(2), ..StepPlan::default() };
        assert!(mirror.apply(&gap).expect_err("a gap").contains("step 2 after step 0"));
        let old = StepPlan {
            epoch: Epoch { number: 9, nonce: 0 },
            step: StepId(1),
            ..StepPlan::default()
        };
        assert!(mirror.apply(&old).expect_err("another epoch").contains("epoch"));
        let span = Span { computed: 0, count: 9, sample: true };
        let plan =
            StepPlan { step: StepId(1), new: vec![new(1, &[5], span)], ..StepPlan::default() };
        assert!(mirror.apply(&plan).expect_err("too many").contains("0..9"));
    }
}
