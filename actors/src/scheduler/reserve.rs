//! Sequences whose blocks are being filled by another group, or from beside the device.
//!
//! Such a sequence has all of its blocks and is in no step: it neither waits nor runs, and cannot
//! be preempted, so how many blocks they hold together is bounded ([`RESERVED_SHARE`]) and whoever
//! reserved for them has a deadline. When what comes has come, or nothing does, it begins before
//! anybody that waits: it has its room already, and computes what is missing.

use troupe_runtime::{
    id::{BlockId, SequenceId, StepId},
    wire::{
        step::{NewSequence, ResumedSequence},
        tier::{TierMove, TierPlace},
        transfer::Run,
    },
};

use super::{
    compose::Draft,
    scheduler::{Part, Scheduler, name_blocks},
    sequence::Sequence,
};
use crate::kv::{hit::Hit, tiers::Tiers};

/// What was reserved for a sequence, and what of it is to come from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Full blocks that are missing, per KV group, by their place in the sequence.
    pub wants: Vec<Run>,
    /// Where those are kept.
    pub blocks: Vec<Vec<BlockId>>,
    /// Positions whose KV is here already.
    pub cached: u32,
}

/// The same where what is missing is kept beside the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What is missing.
    pub reserved: Reserved,
    /// Where it is kept, per KV group: until [`Scheduler::unpin`].
    pub places: Vec<Vec<TierPlace>>,
}

impl Scheduler {
    /// Takes a waiting sequence out of the queue and gives it all of its blocks, if there is room
    /// and it lacks at least `least` positions that another group could compute: of full blocks
    /// before its last token, and of those before position `until`.
    pub fn reserve(&mut self, id: SequenceId, least: u32, until: u32) -> Option<Reserved> {
        let size = self.pools.block_size();
        let sequence = self.sequences.get(id).filter(|_| self.waiting.contains(id))?;
        // Log-probabilities of the prompt need all of its logits, so that nothing is to be had. One
        // that was preempted may be held by a step yet.
        if sequence.spec.options.prompt_logprobs.is_some() || sequence.in_flight > 0 {
            return None;
        }
        let end = sequence.len().saturating_sub(1).min(until) / size;
        let hit = self.pools.find_whole(sequence.prefix(), end, StepId(self.last_step + 1));
        let first = hit.positions / size;
        let most = self.pools.usage().total / RESERVED_SHARE;
        let needs = sequence.len().div_ceil(size);
        let held = self.reserved_blocks();
        let fits = (held == 0 || held + needs <= most)
            && self.pools.can_admit(&hit, sequence.len(), self.limits.watermark);
        // Whoever has waited longer and lacks room, or would lack it then, is not overtaken.
        let oldest = self.waiting.by_age().next().filter(|oldest| *oldest < id);
        let overtakes =
            oldest.and_then(|oldest| self.sequences.get(oldest)).is_some_and(|oldest| {
                let hit = self.look_up(oldest, StepId(self.last_step + 1));
                !self.pools.can_admit(&hit, oldest.len(), self.limits.watermark + needs)
            });
        if !fits || overtakes || (end - first.min(end)) * size < least.max(1) {
            return None;
        }
        Some(self.hold(id, &hit, end))
    }

    /// Takes a waiting sequence of whole blocks out of the queue and lets it hold them, if the
    /// cache has all of them, until it is released; where they are, per KV group.
    pub fn pin(&mut self, id: SequenceId) -> Option<Vec<Vec<BlockId>>> {
        let sequence = self.sequences.get(id).filter(|_| self.waiting.contains(id))?;
        let blocks = sequence.len() / self.pools.block_size();
        let step = StepId(self.last_step + 1);
        let hit = self.pools.find_whole(sequence.prefix(), blocks, step);
        if hit.positions < sequence.len() {
            return None;
        }
        self.hold(id, &hit, blocks);
        self.sequences.get(id).map(|sequence| sequence.tables.clone())
    }

    /// Whether no step in flight holds a sequence.
    pub fn is_idle(&self, id: SequenceId) -> bool {
        self.sequences.get(id).is_some_and(|sequence| sequence.in_flight == 0)
    }

    /// Reserves for a waiting sequence as [`Scheduler::reserve`] does, if tiers have what it lacks.
    pub fn reserve_kept(&mut self, id: SequenceId) -> Option<Kept> {
        let until = self.kept(id)? * self.pools.block_size();
        let reserved = self.reserve(id, 1, until)?;
        let keys = self.sequences.get(id).map_or(&[][..], |sequence| sequence.prefix().full);
        // Nothing has changed since they were looked for.
        let places = self.pools.pin(keys, &reserved.wants).unwrap_or_default();
        Some(Kept { reserved, places })
    }

    /// How many blocks a waiting sequence would have with what tiers have of it, if those have any.
    fn kept(&self, id: SequenceId) -> Option<u32> {
        self.pools.tiers()?;
        let size = self.pools.block_size();
        let sequence = self.sequences.get(id).filter(|_| self.waiting.contains(id))?;
        if sequence.spec.options.prompt_logprobs.is_some() || sequence.in_flight > 0 {
            return None;
        }
        let end = sequence.len().saturating_sub(1) / size;
        let hit = self.pools.find_whole(sequence.prefix(), end, StepId(self.last_step + 1));
        let first = hit.positions / size;
        let reach = self.pools.reach(sequence.prefix().full, first, end);
        (reach > first).then_some(reach)
    }

    /// Nobody reads what was kept there any more.
    pub fn unpin(&mut self, places: &[Vec<TierPlace>]) {
        self.pools.unpin(places);
    }

    /// What was to be there is not.
    pub fn forget_kept(&mut self, places: &[Vec<TierPlace>]) {
        self.pools.forget_kept(places);
    }

    /// What ranks have to do before whatever they are told next.
    pub fn moves(&mut self) -> Vec<TierMove> {
        self.pools.moves()
    }

    /// The tiers beside the device, if there are any.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.pools.tiers()
    }

    fn hold(&mut self, id: SequenceId, hit: &Hit, end: u32) -> Reserved {
        let (size, length) =
            (self.pools.block_size(), self.sequences.get(id).map_or(0, Sequence::len));
        let admitted = self.pools.admit(hit, length);
        let wants: Vec<_> = (0..admitted.tables.len())
            .map(|group| Run::new(admitted.shared.max(self.pools.left(group, end * size)), end))
            .collect();
        let blocks = admitted.tables.iter().zip(&wants).map(|(table, run)| {
            table.get(run.first as usize..run.end as usize).unwrap_or_default().to_vec()
        });
        let blocks = blocks.collect();
        if let Some(sequence) = self.sequences.get_mut(id) {
            let place = sequence.place(id);
            sequence.tables = admitted.tables;
            (sequence.computed, sequence.done) = (hit.positions, hit.positions);
            (sequence.keys.named, sequence.keys.merged) = (admitted.shared, admitted.shared);
            if sequence.mirrored.is_none() {
                sequence.cached = hit.positions;
            }
            self.waiting.remove(place);
        }
        self.reserved.insert(id);
        Reserved { wants, blocks, cached: hit.positions }
    }

    /// The same as [`Scheduler::fetched`] where tiers had it: it was computed here once, so that it
    /// counts as found.
    pub fn loaded(&mut self, id: SequenceId, blocks: u32) {
        let positions = blocks * self.pools.block_size();
        let reserved = self.reserved.contains(&id);
        let new = |sequence: &&mut Sequence| reserved && sequence.mirrored.is_none();
        if let Some(sequence) = self.sequences.get_mut(id).filter(new) {
            sequence.cached = sequence.cached.max(positions);
        }
        self.fetched(id, blocks);
    }

    /// No more comes for a sequence; its first `blocks` blocks are complete. It begins with the
    /// next step that has room.
    pub fn fetched(&mut self, id: SequenceId, blocks: u32) {
        let size = self.pools.block_size();
        let Some(sequence) = self.sequences.get_mut(id).filter(|_| self.reserved.remove(&id))
        else {
            return;
        };
        let computed = (blocks * size).max(sequence.computed);
        if computed > sequence.computed {
            // What no position from here on sees did not come, and must not be taken for filled.
            self.pools.release_left(&mut sequence.tables, computed, None, true);
        }
        (sequence.computed, sequence.done) = (computed, computed);
        self.ready.push_back(id);
    }

    /// Begins what was fetched, first come first.
    pub(super) fn add_fetched(&mut self, draft: &mut Draft) {
        while draft.tokens_left > 0
            && draft.sequences_left > 0
            && (self.running.len() as u32) < self.limits.max_sequences
        {
            let room = self.adapter_room();
            let fits = |id: &SequenceId| room.fits(self.adapter_of(*id));
            let Some(at) = self.ready.iter().position(fits) else { return };
            let Some(id) = self.ready.remove(at) else { return };
            self.begin(id, draft);
        }
    }

    fn begin(&mut self, id: SequenceId, draft: &mut Draft) {
        let left = self.sequences.get(id).map_or(0, |own| own.len() - own.computed);
        let count = self.chunk(left, draft);
        let Some(sequence) = self.sequences.get_mut(id) else { return };
        let step = draft.plan.step;
        self.running.push(id);
        self.counters.admissions += 1;
        let span = sequence.advance(count, step);
        name_blocks(&mut self.pools, sequence, step);
        let part = Part { id, span, drafts: 0, preemptions: sequence.preemptions };
        if sequence.mirrored.is_some() {
            let (appended, block_tables) = (sequence.mirror().to_vec(), sequence.tables.clone());
            let resumed = ResumedSequence { sequence: id, appended, block_tables, span };
            draft.plan.resumed.push(resumed);
            return draft.take(1, part);
        }
        self.counters.prefix_queries += u64::from(sequence.len());
        self.counters.prefix_hits += u64::from(sequence.cached);
        sequence.mirror();
        draft.plan.new.push(NewSequence {
            sequence: id,
            request: sequence.spec.request,
            tokens: sequence.spec.tokens.clone(),
            prompt_len: sequence.spec.prompt_len,
            choice: sequence.spec.choice,
            seed: sequence.spec.seed,
            options: sequence.spec.options.clone(),
            adapter: sequence.spec.adapter,
            traceparent: sequence.spec.traceparent.clone(),
            block_tables: sequence.tables.clone(),
            span,
        });
        draft.take(0, part);
    }

    /// Sequences that hold blocks and are in no step, now or ever.
    pub(super) fn apart(&self) -> usize {
        self.reserved.len() + self.ready.len()
    }

    pub(super) fn is_apart(&self, id: SequenceId) -> bool {
        self.reserved.contains(&id) || self.ready.contains(&id)
    }

    pub(super) fn leave_apart(&mut self, id: SequenceId) {
        self.reserved.remove(&id);
        self.ready.retain(|ready| *ready != id);
    }

    fn reserved_blocks(&self) -> u32 {
        let size = self.pools.block_size();
        let apart = self.reserved.iter().chain(&self.ready);
        apart.filter_map(|id| self.sequences.get(*id)).map(|own| own.len().div_ceil(size)).sum()
    }
}

/// At most one in so many blocks is reserved for what comes from elsewhere, unless it is all for
/// one sequence: the others are for sequences that run.
const RESERVED_SHARE: u32 = 2;
