//! Composing one step: running sequences, then waiting ones, within the budget.

use troupe_runtime::{
    id::{Epoch, SequenceId, StepId},
    wire::step::{NewSequence, ResumedSequence, RunningSequence, Span, StepKind, StepPlan},
};

use super::queues::{Scheduler, Sequence};

/// A plan that is being made, with what is left to give.
struct Draft {
    plan: StepPlan,
    held: Vec<SequenceId>,
    tokens_left: u32,
    sequences_left: u32,
    preempted_any: bool,
}

impl Scheduler {
    /// The next step, if there is anything to run and a place in the pipeline.
    pub fn compose(&mut self, epoch: Epoch) -> Option<StepPlan> {
        if self.in_flight.len() >= self.limits.depth as usize {
            return None;
        }
        let step = StepId(self.last_step + 1);
        let plan = StepPlan { epoch, step, kind: StepKind::Run, ..StepPlan::default() };
        let mut draft = Draft {
            plan,
            held: Vec::new(),
            tokens_left: self.limits.max_batched_tokens,
            sequences_left: self.share_of_a_step(),
            preempted_any: false,
        };
        self.add_running(&mut draft);
        if !draft.preempted_any {
            self.add_waiting(&mut draft);
        }
        if draft.held.is_empty() {
            return None;
        }
        self.last_step += 1;
        draft.plan.finished = std::mem::take(&mut self.finished);
        draft.plan.preempted = std::mem::take(&mut self.preempted);
        for id in &draft.held {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.in_flight = Some(step);
            }
        }
        self.in_flight.insert(step, draft.held);
        Some(draft.plan)
    }

    /// Most sequences in one step: all, or with several stages an equal part, so that the next
    /// step, planned while this one runs, has some left.
    fn share_of_a_step(&self) -> u32 {
        let live = self.running.len() as u32 + self.waiting.len() as u32;
        live.min(self.limits.max_sequences).div_ceil(self.limits.depth).max(1)
    }

    fn add_running(&mut self, draft: &mut Draft) {
        for id in self.running.clone() {
            if draft.tokens_left == 0 || draft.sequences_left == 0 {
                return;
            }
            let Some(sequence) = self.sequences.get(&id) else { continue };
            // A victim of this very loop is no longer running.
            if sequence.in_flight.is_some() || sequence.preempted {
                continue;
            }
            let count = (sequence.len() - sequence.computed).min(draft.tokens_left);
            if count == 0 {
                continue;
            }
            let end = sequence.computed + count;
            if self.make_room(id, end, draft) {
                self.put_running(id, count, draft);
            }
        }
    }

    /// Preempts until `id` can cover `end` positions; false if it was preempted itself.
    fn make_room(&mut self, id: SequenceId, end: u32, draft: &mut Draft) -> bool {
        loop {
            let Some(sequence) = self.sequences.get(&id) else { return false };
            if self.pools.can_grow(&sequence.tables, end) {
                return true;
            }
            let Some(victim) = self.victim(draft) else { return false };
            self.preempt(victim);
            draft.preempted_any = true;
            if victim == id {
                return false;
            }
        }
    }

    /// The youngest running sequence of the lowest priority that no step holds.
    fn victim(&self, draft: &Draft) -> Option<SequenceId> {
        self.running
            .iter()
            .copied()
            .filter(|id| !draft.held.contains(id))
            .filter_map(|id| Some((id, self.sequences.get(&id)?)))
            .filter(|(_, sequence)| sequence.in_flight.is_none())
            .max_by_key(|(id, sequence)| (sequence.spec.priority, *id))
            .map(|(id, _)| id)
    }

    fn preempt(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        self.pools.release(&mut sequence.tables);
        sequence.computed = 0;
        sequence.preempted = true;
        if sequence.mirrored.is_some() {
            self.preempted.push(id);
        }
        self.preemptions += 1;
        self.running.retain(|running| *running != id);
        self.waiting.push_front(id);
    }

    fn add_waiting(&mut self, draft: &mut Draft) {
        while draft.tokens_left > 0
            && draft.sequences_left > 0
            && (self.running.len() as u32) < self.limits.max_sequences
        {
            let Some(&id) = self.waiting.front() else { return };
            let Some(sequence) = self.sequences.get(&id) else { return };
            // All of what is known must fit, or it would be preempted half way.
            if !self.pools.can_grow(&sequence.tables, sequence.len()) {
                return;
            }
            let count = sequence.len().min(draft.tokens_left);
            self.waiting.pop_front();
            self.running.push(id);
            self.put_waiting(id, count, draft);
        }
    }

    fn put_running(&mut self, id: SequenceId, count: u32, draft: &mut Draft) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let span = advance(sequence, count);
        let new_blocks = self.pools.grow(&mut sequence.tables, span.computed + count);
        draft.plan.running.push(RunningSequence {
            sequence: id,
            appended: mirror(sequence),
            placeholder: None,
            new_blocks,
            drafts: Vec::new(),
            span,
        });
        draft.take(id, count);
    }

    fn put_waiting(&mut self, id: SequenceId, count: u32, draft: &mut Draft) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let span = advance(sequence, count);
        // The whole of it was found to fit, so take the whole now: nothing else may have it.
        let positions = sequence.len();
        self.pools.grow(&mut sequence.tables, positions);
        sequence.preempted = false;
        let block_tables = sequence.tables.clone();
        if sequence.mirrored.is_some() {
            let appended = mirror(sequence);
            let resumed = ResumedSequence { sequence: id, appended, block_tables, span };
            draft.plan.resumed.push(resumed);
        } else {
            mirror(sequence);
            let spec = &sequence.spec;
            draft.plan.new.push(NewSequence {
                sequence: id,
                tokens: spec.tokens.clone(),
                prompt_len: spec.prompt_len,
                choice: spec.choice,
                seed: spec.seed,
                options: spec.options.clone(),
                adapter: spec.adapter.clone(),
                traceparent: spec.traceparent.clone(),
                block_tables,
                span,
            });
        }
        draft.take(id, count);
    }
}

impl Draft {
    fn take(&mut self, id: SequenceId, count: u32) {
        self.held.push(id);
        self.tokens_left -= count;
        self.sequences_left -= 1;
    }
}

/// Moves a sequence on by `count` positions and says which those are.
fn advance(sequence: &mut Sequence, count: u32) -> Span {
    let computed = sequence.computed;
    sequence.computed += count;
    // Only the step that computes the last known token can yield the next one.
    let wants_token = sequence.spec.options.max_tokens > 0;
    Span { computed, count, sample: wants_token && sequence.computed == sequence.len() }
}

/// Tokens that the workers lack; afterwards they have them.
fn mirror(sequence: &mut Sequence) -> Vec<u32> {
    let known = sequence.mirrored.replace(sequence.len()).unwrap_or(0);
    sequence.spec.tokens.get(known as usize..).unwrap_or_default().to_vec()
}
