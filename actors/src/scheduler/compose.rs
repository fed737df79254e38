//! Composing one step: the sequences that run, then those that wait, within the budget.

use troupe_runtime::{
    id::{Epoch, SequenceId, StepId},
    wire::{
        Tokens,
        step::{RunningSequence, StepKind, StepPlan},
    },
};

use super::{
    scheduler::{Part, Scheduler, name_blocks},
    sequence::Sequence,
};

/// A plan that is being made, with what is left to give.
pub(super) struct Draft {
    pub(super) plan: StepPlan,
    /// Of new, resumed and running sequences: the order of the plan.
    parts: [Vec<Part>; 3],
    pub(super) tokens_left: u32,
    pub(super) sequences_left: u32,
    preempted_any: bool,
    /// Which of the running list is looked at next.
    at: usize,
}

/// How early the next step of a sequence may be planned whose last token is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    /// When in a full pipeline the token would just arrive.
    InTime,
    /// At once: a stage would wait for the token, but it has nothing else to do.
    AtOnce,
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
            parts: Default::default(),
            tokens_left: self.limits.max_batched_tokens,
            sequences_left: self.share_of_a_step(),
            preempted_any: false,
            at: 0,
        };
        let most = draft.sequences_left.min(self.running.len() as u32) as usize;
        draft.plan.running.reserve(most);
        draft.parts[2].reserve(most);
        self.add_running(&mut draft, Ahead::InTime);
        if !draft.preempted_any {
            self.add_waiting(&mut draft);
        }
        if draft.is_empty() && self.waiting.is_empty() && self.ready.is_empty() {
            self.add_running(&mut draft, Ahead::AtOnce);
        }
        if draft.is_empty() {
            return None;
        }
        self.last_step += 1;
        draft.plan.finished = std::mem::take(&mut self.finished);
        draft.plan.preempted = std::mem::take(&mut self.preempted);
        self.in_flight.insert(step, draft.parts.concat());
        Some(draft.plan)
    }

    /// Most sequences in one step: all, or with several stages an equal part, so that the next
    /// step, planned while this one runs, has some left.
    fn share_of_a_step(&self) -> u32 {
        let live = (self.running.len() + self.waiting.len() + self.ready.len()) as u32;
        live.min(self.limits.max_sequences).div_ceil(self.limits.stages).max(1)
    }

    fn add_running(&mut self, draft: &mut Draft, ahead: Ahead) {
        draft.at = 0;
        while let Some(&id) = self.running.get(draft.at) {
            if draft.tokens_left == 0 || draft.sequences_left == 0 {
                return;
            }
            draft.at += 1;
            let Some(sequence) = self.sequences.get(id) else { continue };
            let count = self.positions(sequence, draft, ahead);
            if count == 0 {
                continue;
            }
            let end = sequence.computed + count;
            let drafts = self.drafts(id, draft);
            let Some(sequence) = self.sequences.get(id) else { continue };
            // A draft is worth a block, but not somebody else's.
            let with_drafts = end + drafts.len() as u32;
            if !drafts.is_empty() && self.pools.can_grow(&sequence.tables, with_drafts) {
                self.put_running(id, count, drafts, draft);
            } else if self.make_room(id, end, draft) {
                self.put_running(id, count, Tokens::new(), draft);
            }
        }
    }

    /// How many positions of a running sequence the step computes.
    fn positions(&self, sequence: &Sequence, draft: &Draft, ahead: Ahead) -> u32 {
        let step = draft.plan.step;
        if sequence.last_step == step {
            return 0;
        }
        let left = sequence.wanted() - sequence.computed.min(sequence.wanted());
        let is_placeholder = sequence.computed >= sequence.len();
        if sequence.in_flight > 0 && is_placeholder {
            let in_time = sequence.last_step.0 + u64::from(self.limits.stages) <= step.0;
            let may = self.limits.speculation.is_none()
                && sequence.pending == 1
                && sequence.tokens_left() > 0
                && (in_time || ahead == Ahead::AtOnce);
            if !may {
                return 0;
            }
        }
        self.chunk(left, draft)
    }

    /// As many of `left` positions as the step has room for; where prompts are not cut, all or
    /// none.
    pub(super) fn chunk(&self, left: u32, draft: &Draft) -> u32 {
        if self.limits.whole_prompts {
            return if left <= draft.tokens_left { left } else { 0 };
        }
        let alone = self.running.len() + self.waiting.len() + self.ready.len() <= 1;
        let threshold = match self.limits.long_prefill_threshold {
            threshold if threshold > 0 && !alone => threshold,
            _ => u32::MAX,
        };
        left.min(draft.tokens_left).min(threshold)
    }

    /// Guesses at what follows a sequence's last token, to be verified by the step.
    fn drafts(&mut self, id: SequenceId, draft: &Draft) -> Tokens {
        let Some(settings) = self.limits.speculation else { return Tokens::new() };
        let Some(sequence) = self.sequences.get_mut(id) else { return Tokens::new() };
        let decodes = sequence.in_flight == 0
            && sequence.computed + 1 == sequence.len()
            && sequence.computed >= sequence.spec.prompt_len;
        if !decodes {
            return Tokens::new();
        }
        // One token comes without a draft.
        let most = (draft.tokens_left - 1).min(sequence.tokens_left().saturating_sub(1));
        sequence.seen.draft(&sequence.spec.tokens, settings, most)
    }

    /// Preempts until `id` can cover `end` positions; false if it cannot in this step.
    fn make_room(&mut self, id: SequenceId, end: u32, draft: &mut Draft) -> bool {
        loop {
            let Some(sequence) = self.sequences.get(id) else { return false };
            if self.pools.can_grow(&sequence.tables, end) {
                return true;
            }
            // Enough will be free when the steps in flight are done: no need to take more.
            if self.pools.can_grow_later(&sequence.tables, end) {
                return false;
            }
            let Some(victim) = self.victim(draft.plan.step) else { return false };
            self.preempt(victim, draft);
            if victim == id {
                return false;
            }
        }
    }

    /// The youngest running sequence of the lowest priority that this step does not hold.
    fn victim(&self, step: StepId) -> Option<SequenceId> {
        self.running
            .iter()
            .filter_map(|id| Some((*id, self.sequences.get(*id)?)))
            .filter(|(_, sequence)| sequence.last_step != step)
            .max_by_key(|(id, sequence)| (sequence.spec.priority, *id))
            .map(|(id, _)| id)
    }

    fn preempt(&mut self, id: SequenceId, draft: &mut Draft) {
        let Some(at) = self.running.iter().position(|running| *running == id) else { return };
        let Some(sequence) = self.sequences.get_mut(id) else { return };
        let fence = sequence.fence();
        self.pools.release(&mut sequence.tables, fence, self.limits.prefix_caching);
        sequence.restart();
        sequence.waits_since = self.counters.admissions;
        if sequence.mirrored.is_some() {
            self.preempted.push(id);
        }
        self.counters.preemptions += 1;
        self.running.remove(at);
        // Who comes next in the list is still next, also if this one stood earlier: passed over,
        // the only one that can run would leave the step empty, and nothing would ever ask again.
        draft.at -= usize::from(at < draft.at);
        draft.preempted_any = true;
        self.waiting.insert(sequence.place(id));
    }

    fn put_running(&mut self, id: SequenceId, count: u32, drafts: Tokens, draft: &mut Draft) {
        let Some(sequence) = self.sequences.get_mut(id) else { return };
        let step = draft.plan.step;
        let placeholder =
            (sequence.computed + count > sequence.len()).then_some(sequence.last_sampling);
        let span = sequence.advance(count + drafts.len() as u32, step);
        let new_blocks = self.pools.grow(&mut sequence.tables, sequence.computed);
        name_blocks(&mut self.pools, sequence, step);
        let (drafted, preemptions) = (drafts.len() as u32, sequence.preemptions);
        draft.take(2, Part { id, span, drafts: drafted, preemptions });
        draft.plan.running.push(RunningSequence {
            sequence: id,
            appended: sequence.mirror().into(),
            placeholder,
            swaps: std::mem::take(&mut sequence.swaps),
            new_blocks,
            drafts,
            span,
        });
    }
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.parts.iter().all(Vec::is_empty)
    }

    /// Notes a sequence of one of the plan's lists: 0 is new, 1 resumed, 2 running.
    pub(super) fn take(&mut self, list: usize, part: Part) {
        self.parts[list].push(part);
        self.tokens_left -= part.span.count;
        self.sequences_left -= 1;
    }
}
