//! Composing one step: which waiting sequences begin, and with what they find in the prefix cache.
//!
//! Who is next must find room for all of its tokens, or it would be preempted half way; if it does
//! not, nobody overtakes it. Only sequences that cannot begin yet whatever the room are passed
//! over: further choices of a request whose first one is still computing the prompt they share,
//! preempted ones that a step in flight still holds, and those whose adapter would be one too many
//! ([`super::adapters`]).

use troupe_runtime::{
    id::{SequenceId, StepId},
    wire::step::{NewSequence, ResumedSequence},
};

use super::{
    adapters::AdapterRoom,
    compose::Draft,
    scheduler::{Part, Scheduler, name_blocks},
    sequence::Sequence,
    waiting::{LPM_MOST, PATIENCE, Policy},
};
use crate::kv::hit::Hit;

impl Scheduler {
    pub(super) fn add_waiting(&mut self, draft: &mut Draft) {
        self.add_fetched(draft);
        self.lacks_blocks = false;
        while draft.tokens_left > 0
            && draft.sequences_left > 0
            && (self.running.len() as u32) < self.limits.max_sequences
        {
            let step = draft.plan.step;
            let room = self.adapter_room();
            if self.is_held_for_adapter(&room) {
                return;
            }
            let Some((id, overdue)) = self.next(step, &room) else { return };
            let Some(sequence) = self.sequences.get(id) else { return };
            let hit = self.look_up(sequence, step);
            let reserve = if self.running.is_empty() { 0 } else { self.limits.watermark };
            if !self.pools.can_admit(&hit, sequence.len(), reserve) {
                self.lacks_blocks = true;
                return;
            }
            let count = self.chunk(sequence.len() - hit.positions, draft);
            if count == 0 {
                return;
            }
            self.admit(id, &hit, count, draft);
            self.was_overdue = overdue;
        }
    }

    /// Who is to begin next, of those who can, and whether it is for having waited too long. After
    /// one of those whoever's turn it is goes first: however many have waited too long, they take
    /// every second place and no more, and what is urgent does not wait for all of them.
    fn next(&self, step: StepId, room: &AdapterRoom) -> Option<(SequenceId, bool)> {
        let ready = |id: &SequenceId| self.is_ready(*id, step) && room.fits(self.adapter_of(*id));
        let oldest = || self.waiting.by_age().find(ready);
        let patience = PATIENCE * u64::from(self.limits.max_sequences);
        // Not the oldest: one that is preempted again and again begins to wait anew each time, and
        // must not stand before one that has waited all the while.
        let overdue = || {
            if self.was_overdue {
                return None;
            }
            let id = self.waiting.by_wait().find(ready)?;
            let since = self.sequences.get(id)?.waits_since;
            (self.counters.admissions - since >= patience).then_some(id)
        };
        let turn = || match self.limits.policy {
            Policy::Fcfs => oldest(),
            Policy::Priority => self.waiting.by_priority().find(ready),
            Policy::Lpm if self.waiting.len() > LPM_MOST => oldest(),
            Policy::Lpm => {
                let found = |id: &SequenceId| {
                    let sequence = self.sequences.get(*id);
                    sequence.map_or(0, |sequence| self.look_up(sequence, step).positions)
                };
                // The first of equals: ids ascend with age, so the reversed id breaks ties.
                let ready = self.waiting.by_age().filter(ready);
                ready.max_by_key(|id| (found(id), std::cmp::Reverse(*id)))
            }
        };
        let late = (self.limits.policy != Policy::Fcfs).then(overdue).flatten();
        late.map(|id| (id, true)).or_else(|| Some((turn()?, false)))
    }

    fn is_ready(&self, id: SequenceId, step: StepId) -> bool {
        let Some(sequence) = self.sequences.get(id) else { return false };
        if sequence.in_flight > 0 {
            return false;
        }
        let first = sequence.spec.first_choice.and_then(|first| self.sequences.get(first));
        // Planned by this very step, the prompt's last block is not there yet to be copied.
        let has_prompt =
            |first: &Sequence| first.keys.end_named.is_some_and(|planned| planned < step);
        sequence.mirrored.is_some() || first.is_none_or(has_prompt)
    }

    /// What a sequence would find in the prefix cache: at most all but its last token, whose logits
    /// are wanted. Log-probabilities of the prompt need all of its logits, so there it is nothing.
    pub(super) fn look_up(&self, sequence: &Sequence, step: StepId) -> Hit {
        let limit = match sequence.spec.options.prompt_logprobs {
            Some(_) => 0,
            None => sequence.len().saturating_sub(1),
        };
        self.pools.find(sequence.prefix(), limit, step)
    }

    fn admit(&mut self, id: SequenceId, hit: &Hit, count: u32, draft: &mut Draft) {
        let Some(sequence) = self.sequences.get_mut(id) else { return };
        let step = draft.plan.step;
        self.waiting.remove(sequence.place(id));
        self.running.push(id);
        self.counters.admissions += 1;
        // The whole of it was found to fit, so take the whole now: nothing else may have it.
        let admitted = self.pools.admit(hit, sequence.len());
        sequence.tables = admitted.tables;
        (sequence.computed, sequence.done) = (hit.positions, hit.positions);
        (sequence.keys.named, sequence.keys.merged) = (admitted.shared, admitted.shared);
        draft.plan.copies.extend(admitted.copies);
        let span = sequence.advance(count, step);
        name_blocks(&mut self.pools, sequence, step);
        let block_tables = sequence.tables.clone();
        let part = Part { id, span, drafts: 0, preemptions: sequence.preemptions };
        if sequence.mirrored.is_some() {
            let appended = sequence.mirror().to_vec();
            let resumed = ResumedSequence { sequence: id, appended, block_tables, span };
            draft.plan.resumed.push(resumed);
            draft.take(1, part);
        } else {
            sequence.cached = hit.positions;
            self.counters.prefix_queries += u64::from(sequence.len());
            self.counters.prefix_hits += u64::from(hit.positions);
            sequence.mirror();
            let spec = &sequence.spec;
            draft.plan.new.push(NewSequence {
                sequence: id,
                request: spec.request,
                tokens: spec.tokens.clone(),
                prompt_len: spec.prompt_len,
                choice: spec.choice,
                seed: spec.seed,
                options: spec.options.clone(),
                adapter: spec.adapter,
                traceparent: spec.traceparent.clone(),
                block_tables,
                span,
            });
            draft.take(0, part);
        }
    }
}
