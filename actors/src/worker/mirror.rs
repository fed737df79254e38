//! What a worker knows of the sequences: plans are diffs, this is what they are diffs of.
//!
//! Every worker of a group is given the same plans in the same order and so holds the same mirror.
//! From a plan it makes the rank's [`StepBatch`]; at the last stage also what sampling needs
//! ([`super::verify`]). A plan that does not fit the mirror (an unknown sequence, a gap in
//! positions, a step out of order) is an error and ends the rank: going on would compute with wrong
//! state.
//!
//! A plan may be ahead of the leader's knowledge: its last token is then a placeholder. Ranks that
//! need the token learn it from the rank that sampled it ([`Mirror::learn`]) before they apply the
//! plan; the leader confirms it with a later one. Ranks of other stages compute with hidden states
//! and never look at token ids.

use std::{collections::BTreeMap, sync::Arc};

use troupe_gpu::executor::{BatchSequence, LogitRows, StepBatch};
use troupe_runtime::{
    id::{AdapterId, BlockId, Epoch, RequestId, SequenceId, StepId},
    wire::{
        generate::SamplingOptions,
        step::{NewSequence, ResumedSequence, RunningSequence, Span, StepPlan},
    },
};

use super::tokens::SampledAt;

/// The sequences of one group as its workers know them.
#[derive(Clone, Debug)]
pub struct Mirror {
    epoch: Epoch,
    block_size: u32,
    last_step: StepId,
    pub(super) sequences: BTreeMap<SequenceId, Mirrored>,
}

/// One sequence.
#[derive(Clone, Debug)]
pub(super) struct Mirrored {
    /// Prompt and output; then what was learned and not confirmed; then this step's drafts.
    pub(super) tokens: Vec<u32>,
    /// How many of them the leader has told.
    confirmed: usize,
    /// How many of the last are drafts.
    pub(super) drafts: usize,
    pub(super) prompt_len: u32,
    pub(super) choice: u32,
    pub(super) seed: u64,
    pub(super) options: SamplingOptions,
    request: RequestId,
    adapter: Option<AdapterId>,
    tables: Arc<Vec<Vec<BlockId>>>,
    computed: u32,
}

impl Mirror {
    /// An empty mirror for one incarnation.
    pub fn new(epoch: Epoch, block_size: u32) -> Self {
        Self { epoch, block_size, last_step: StepId(0), sequences: BTreeMap::new() }
    }

    /// Notes sampled tokens that the leader has not told yet. What it has, and what belongs to
    /// sequences that are gone, is passed over.
    pub fn learn(&mut self, sampled: &[SampledAt]) {
        for sampled in sampled {
            if let Some(sequence) = self.sequences.get_mut(&sampled.sequence)
                && sampled.position as usize == sequence.tokens.len()
            {
                sequence.tokens.push(sampled.token);
            }
        }
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
            sequence.tables = Arc::default();
        }
        let mut batch =
            StepBatch { step: plan.step, copies: plan.copies.clone(), ..StepBatch::default() };
        for new in &plan.new {
            let sequence = self.sequences.entry(new.sequence).or_insert_with(|| mirrored(new));
            sequence.extend(&mut batch, new.sequence, new.span, self.block_size)?;
        }
        for resumed in &plan.resumed {
            let sequence = known(&mut self.sequences, resumed.sequence)?;
            sequence.resume(resumed)?;
            sequence.extend(&mut batch, resumed.sequence, resumed.span, self.block_size)?;
        }
        for running in &plan.running {
            let sequence = known(&mut self.sequences, running.sequence)?;
            sequence.grow(running)?;
            sequence.extend(&mut batch, running.sequence, running.span, self.block_size)?;
        }
        Ok(batch)
    }

    /// Whose a sequence is.
    pub fn request_of(&self, sequence: SequenceId) -> Option<RequestId> {
        self.sequences.get(&sequence).map(|sequence| sequence.request)
    }

    /// Forgets the drafts of a step that is done, right or wrong: what is right is learned.
    pub fn drop_drafts(&mut self, plan: &StepPlan) {
        for running in plan.running.iter().filter(|running| !running.drafts.is_empty()) {
            if let Some(sequence) = self.sequences.get_mut(&running.sequence) {
                sequence.tokens.truncate(sequence.tokens.len() - sequence.drafts);
                sequence.drafts = 0;
            }
        }
    }
}

impl Mirrored {
    fn resume(&mut self, resumed: &ResumedSequence) -> Result<(), String> {
        self.confirm(resumed.sequence, &resumed.appended)?;
        self.tables = Arc::new(resumed.block_tables.clone());
        self.computed = resumed.span.computed;
        Ok(())
    }

    fn grow(&mut self, running: &RunningSequence) -> Result<(), String> {
        let id = running.sequence;
        self.confirm(id, &running.appended)?;
        // A placeholder that was not learned, at a rank that does not need it.
        let wanted = (running.span.computed + running.span.count) as usize - running.drafts.len();
        if running.placeholder.is_none() && self.tokens.len() < wanted {
            return Err(format!("sequence {id} has {} of {wanted} tokens", self.tokens.len()));
        }
        self.tokens.extend(&running.drafts);
        self.drafts = running.drafts.len();
        if running.swaps.is_empty() && running.new_blocks.is_empty() {
            return Ok(());
        }
        if !running.new_blocks.is_empty() && self.tables.len() != running.new_blocks.len() {
            let (own, told) = (self.tables.len(), running.new_blocks.len());
            return Err(format!("sequence {id} has {own} block tables, the plan {told}"));
        }
        // Nobody else holds the tables between steps, so this copies nothing.
        let tables = Arc::make_mut(&mut self.tables);
        for swap in &running.swaps {
            let table = tables.get_mut(swap.group as usize);
            let slot = table.and_then(|table| table.get_mut(swap.index as usize));
            *slot.ok_or_else(|| format!("sequence {id} has no block for {swap:?}"))? = swap.block;
        }
        for (table, new) in tables.iter_mut().zip(&running.new_blocks) {
            table.extend(new);
        }
        Ok(())
    }

    /// Takes tokens that the leader tells; those that are known already must be the same.
    fn confirm(&mut self, id: SequenceId, appended: &[u32]) -> Result<(), String> {
        for &token in appended {
            match self.tokens.get(self.confirmed) {
                None => self.tokens.push(token),
                Some(&own) if own == token => {}
                Some(own) => {
                    let position = self.confirmed;
                    return Err(format!(
                        "sequence {id}: token {position} is {own} here and {token} at the leader"
                    ));
                }
            }
            self.confirmed += 1;
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
        // What was computed of drafts that were wrong is computed again, but nothing is left out.
        if span.computed > self.computed || end > self.tokens.len() + 1 {
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
            block_tables: Arc::clone(&self.tables),
            adapter: self.adapter,
            logits: self.logit_rows(span),
        });
        let known = self.tokens.len().min(end);
        batch.tokens.extend(self.tokens.get(first..known).unwrap_or_default());
        // A token that this rank does not know and does not need.
        batch.tokens.resize(batch.positions.len() + span.count as usize, 0);
        batch.positions.extend(span.computed..span.computed + span.count);
        self.computed = span.computed + span.count;
        Ok(())
    }

    fn logit_rows(&self, span: Span) -> LogitRows {
        // Prompt log-probabilities are computed once: not again after output exists.
        let in_prompt =
            span.computed < self.prompt_len && self.tokens.len() == self.prompt_len as usize;
        match (self.options.prompt_logprobs, span.sample) {
            (Some(_), _) if in_prompt => LogitRows::All,
            (_, true) if self.drafts > 0 => LogitRows::Tail(self.drafts as u32 + 1),
            (_, true) => LogitRows::Last,
            (_, false) => LogitRows::None,
        }
    }
}

fn mirrored(new: &NewSequence) -> Mirrored {
    Mirrored {
        request: new.request,
        adapter: new.adapter,
        tokens: new.tokens.clone(),
        confirmed: new.tokens.len(),
        drafts: 0,
        prompt_len: new.prompt_len,
        choice: new.choice,
        seed: new.seed,
        options: new.options.clone(),
        tables: Arc::new(new.block_tables.clone()),
        computed: new.span.computed,
    }
}

fn known(
    sequences: &mut BTreeMap<SequenceId, Mirrored>,
    id: SequenceId,
) -> Result<&mut Mirrored, String> {
    sequences.get_mut(&id).ok_or_else(|| format!("sequence {id} is not known"))
}

#[cfg(test)]
mod tests;
