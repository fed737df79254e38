//! The sequences of an engine, the steps in flight, and what results change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use troupe_runtime::{
    id::{SequenceId, StepId},
    wire::step::{Outcome, Span, StepResult},
};

use super::{
    arena::Arena,
    ngram::NgramSettings,
    sequence::{Sequence, SequenceSpec},
    waiting::{Place, Policy, Waiting},
};
use crate::kv::{
    blocks::BlockPools,
    findable::Change,
    pool::{BlockKey, Usage},
    tiers::Tiers,
};

/// Bounds and rules of planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in a step.
    pub max_batched_tokens: u32,
    /// Most sequences that run at a time.
    pub max_sequences: u32,
    /// Most tokens of one prompt in a step while others are there too; 0 is no limit.
    pub long_prefill_threshold: u32,
    /// Pipeline stages.
    pub stages: u32,
    /// Most steps in flight.
    pub depth: u32,
    /// Order of admission.
    pub policy: Policy,
    /// Whether blocks stay findable once nobody holds them.
    pub prefix_caching: bool,
    /// Blocks that admission leaves free while others run.
    pub watermark: u32,
    /// Most adapters of sequences that run; 0 where there are none.
    pub max_loras: u32,
    /// Drafts, if any. Drafts need to know the last token, so that nothing is planned ahead of it.
    pub speculation: Option<NgramSettings>,
    /// Whether each prompt is computed in one step: one that does not fit waits for the next.
    pub whole_prompts: bool,
}

/// What has been counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Sequences that went from waiting to running.
    pub admissions: u64,
    /// Tokens whose KV was looked for in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens whose KV was found.
    pub prefix_hits: u64,
    /// Drafts that were verified.
    pub drafts: u64,
    /// Their tokens.
    pub draft_tokens: u64,
    /// Those of them that were accepted.
    pub accepted_tokens: u64,
    /// The same by place in the draft: how many drafts were right so far at least.
    pub accepted_per_position: Vec<u64>,
    /// Blocks that gave way to equal ones.
    pub merged_blocks: u64,
}

/// The queues, the blocks and the steps in flight of one engine.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(super) limits: Limits,
    pub(super) pools: BlockPools,
    pub(super) sequences: Arena<SequenceId, Sequence>,
    pub(super) waiting: Waiting,
    /// In order of admission.
    pub(super) running: Vec<SequenceId>,
    /// Their blocks are being filled by another group.
    pub(super) reserved: BTreeSet<SequenceId>,
    /// Their blocks are filled, as far as they will be.
    pub(super) ready: VecDeque<SequenceId>,
    pub(super) in_flight: BTreeMap<StepId, Vec<Part>>,
    /// Told to the workers with the next plan.
    pub(super) finished: Vec<SequenceId>,
    /// Told to the workers with the next plan.
    pub(super) preempted: Vec<SequenceId>,
    pub(super) counters: Counters,
    pub(super) last_step: u64,
    /// Whether who was next lacked blocks when a step was last composed.
    pub(super) lacks_blocks: bool,
    /// Whether the one that was admitted last had waited too long, rather than been its turn.
    pub(super) was_overdue: bool,
}

/// A sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which sequence: by the time that the step is done it may have ended.
    pub id: SequenceId,
    /// The positions that are computed.
    pub span: Span,
    pub(super) drafts: u32,
    /// How often it had been preempted when it was planned.
    pub(super) preemptions: u32,
}

impl Scheduler {
    /// A scheduler with empty queues.
    pub fn new(limits: Limits, pools: BlockPools) -> Self {
        assert!(limits.max_batched_tokens > 0 && limits.max_sequences > 0);
        assert!(limits.stages > 0 && limits.depth > 0);
        let positions = limits.speculation.map_or(0, |settings| settings.num_tokens as usize);
        let accepted_per_position = vec![0; positions];
        Self {
            limits,
            pools,
            sequences: Arena::new(),
            waiting: Waiting::default(),
            running: Vec::new(),
            reserved: BTreeSet::new(),
            ready: VecDeque::new(),
            in_flight: BTreeMap::new(),
            finished: Vec::new(),
            preempted: Vec::new(),
            counters: Counters { accepted_per_position, ..Counters::default() },
            last_step: 0,
            lacks_blocks: false,
            was_overdue: false,
        }
    }

    /// The same with tiers for what the device gives up.
    pub fn with_tiers(self, tiers: Tiers) -> Self {
        Self { pools: self.pools.with_tiers(tiers), ..self }
    }

    /// Puts a sequence into the queue.
    pub fn add(&mut self, spec: SequenceSpec) -> SequenceId {
        let mut sequence = Sequence::new(spec, self.pools.tables(), self.pools.block_size());
        sequence.waits_since = self.counters.admissions;
        let place = sequence.place(SequenceId(0));
        let id = self.sequences.insert(sequence);
        self.waiting.insert(Place { id, ..place });
        id
    }

    /// Whether a sequence of this many positions could run at all.
    pub fn could_ever_hold(&self, positions: u32) -> bool {
        self.pools.could_ever_hold(positions)
    }

    /// Notes that a step is done and returns its parts, in the order of the plan; the outcomes of
    /// the result are those of some of them, in the same order.
    ///
    /// # Errors
    /// A result for a step that is not in flight.
    pub fn complete(&mut self, result: &StepResult) -> Result<Vec<Part>, String> {
        let parts = self
            .in_flight
            .remove(&result.step)
            .ok_or_else(|| format!("a result for step {}, which is not in flight", result.step))?;
        self.pools.step_done(result.step);
        let mut outcomes = result.outcomes.iter().peekable();
        for part in &parts {
            let outcome = outcomes.next_if(|outcome| outcome.sequence == part.id);
            let Some(sequence) = self.sequences.get_mut(part.id) else { continue };
            sequence.in_flight -= 1;
            sequence.pending -= u32::from(part.span.sample);
            let mut end = part.span.computed + part.span.count;
            if part.drafts > 0 {
                let sampled = match outcome.map(|outcome| &outcome.outcome) {
                    Some(Outcome::Tokens(sampled)) => sampled.tokens.len() as u32,
                    _ => 1,
                };
                self.counters.verified(part.drafts, sampled.saturating_sub(1));
                // What was computed of drafts that are wrong is computed again. Nothing is planned
                // ahead of drafts, so that no later step has built on it.
                end = part.span.computed + sampled;
                if part.preemptions == sequence.preemptions {
                    sequence.computed = end;
                }
            }
            // A sequence that lost its blocks in the meantime has lost what was computed as well.
            if part.preemptions == sequence.preemptions {
                sequence.done = end;
            }
        }
        Ok(parts)
    }

    /// Adds a sampled token to a sequence.
    pub fn append(&mut self, id: SequenceId, token: u32) {
        let block_size = self.pools.block_size();
        if let Some(sequence) = self.sequences.get_mut(id) {
            sequence.append(token, block_size);
        }
    }

    /// Names the blocks that results have completed, merges those that others hold too, and gives
    /// back those that left the windows of their layers.
    pub fn settle(&mut self, id: SequenceId) {
        let step = StepId(self.last_step);
        let Some(sequence) = self.sequences.get_mut(id) else { return };
        name_blocks(&mut self.pools, sequence, step);
        if sequence.spec.keeps_blocks {
            return;
        }
        let (size, fence) = (self.pools.block_size(), sequence.fence());
        while sequence.keys.merged < sequence.keys.named
            && (sequence.keys.merged + 1) * size <= sequence.done
        {
            let index = sequence.keys.merged;
            sequence.keys.merged += 1;
            let Some(key) = sequence.key(index) else { break };
            let swaps = self.pools.merge(&mut sequence.tables, index, key, fence);
            self.counters.merged_blocks += swaps.len() as u64;
            sequence.swaps.extend(swaps);
        }
        // Steps in flight compute what is not done, and so see no more than that does.
        let keep = self.limits.prefix_caching;
        self.pools.release_left(&mut sequence.tables, sequence.done, fence, keep);
    }

    /// Whether a sequence is in the queue.
    pub fn is_waiting(&self, id: SequenceId) -> bool {
        self.waiting.contains(id)
    }

    /// A live sequence.
    pub fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(id)
    }

    /// Ends a sequence: its blocks are free at once, or when the steps that hold it are done.
    pub fn release(&mut self, id: SequenceId) {
        self.end(id, self.limits.prefix_caching)
    }

    /// Ends a sequence whose KV cannot be trusted: nobody shall find it.
    pub fn discard(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get(id) {
            self.pools.forget(&sequence.tables);
        }
        self.end(id, false)
    }

    fn end(&mut self, id: SequenceId, keep: bool) {
        let Some(mut sequence) = self.sequences.remove(id) else { return };
        self.waiting.remove(sequence.place(id));
        self.running.retain(|running| *running != id);
        self.leave_apart(id);
        self.preempted.retain(|preempted| *preempted != id);
        let fence = sequence.fence();
        self.pools.release(&mut sequence.tables, fence, keep);
        if sequence.mirrored.is_some() {
            self.finished.push(id);
        }
    }

    /// Sequences that run and that wait, for room or for KV from elsewhere.
    pub fn counts(&self) -> (u32, u32) {
        (self.running.len() as u32, (self.waiting.len() + self.apart()) as u32)
    }

    /// Those of the waiting ones that have a place and only wait for the next step to be composed,
    /// as far as that can be said before it is.
    pub fn about_to_run(&self) -> u32 {
        if self.lacks_blocks {
            return 0;
        }
        let places = self.limits.max_sequences.saturating_sub(self.running.len() as u32);
        places.saturating_sub(self.ready.len() as u32).min(self.waiting_with_room())
    }

    /// Sequences that have not ended.
    pub fn live(&self) -> usize {
        self.sequences.len()
    }

    /// How the blocks are used.
    pub fn usage(&self) -> Usage {
        self.pools.usage()
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Steps in flight.
    pub fn steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Which blocks' contents can be found now and could not before, and the other way round.
    pub fn changes(&mut self) -> Vec<Change> {
        self.pools.changes()
    }

    /// Names of all blocks whose contents can be found now.
    pub fn computed(&self) -> Vec<BlockKey> {
        self.pools.computed()
    }

    /// Forgets the KV that no sequence holds.
    pub fn clear_cache(&mut self) {
        self.pools.clear_cache();
    }

    /// Checks that every block and every sequence is where it should be.
    ///
    /// # Errors
    /// What is not.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.pools.check_integrity(self.sequences.iter().map(|(_, sequence)| &sequence.tables))?;
        let (running, waiting) = self.counts();
        if (running + waiting) as usize != self.sequences.len() {
            let all = self.sequences.len();
            return Err(format!("{running} sequences run, {waiting} wait, there are {all}"));
        }
        for (id, sequence) in self.sequences.iter() {
            let waits = self.waiting.contains(id);
            let places = [waits, self.running.contains(&id), self.is_apart(id)];
            if places.into_iter().filter(|is_there| *is_there).count() != 1 {
                return Err(format!("sequence {id} is in two places or in none: {places:?}"));
            }
            if waits && sequence.tables.iter().any(|table| !table.is_empty()) {
                return Err(format!("sequence {id} waits and holds blocks"));
            }
            let steps = self.in_flight.values().flatten().filter(|part| part.id == id).count();
            if steps != sequence.in_flight as usize {
                let noted = sequence.in_flight;
                return Err(format!("sequence {id} is in {steps} steps, {noted} are noted"));
            }
        }
        Ok(())
    }
}

impl Counters {
    fn verified(&mut self, drafted: u32, accepted: u32) {
        self.drafts += 1;
        self.draft_tokens += u64::from(drafted);
        self.accepted_tokens += u64::from(accepted);
        let places = self.accepted_per_position.iter_mut().take(accepted as usize);
        places.for_each(|drafts| *drafts += 1);
    }
}

/// Tells the pools what the blocks of a sequence contain, as far as planned steps write them.
pub(super) fn name_blocks(pools: &mut BlockPools, sequence: &mut Sequence, step: StepId) {
    let size = pools.block_size();
    let known = sequence.computed.min(sequence.len());
    while (sequence.keys.named + 1) * size <= known {
        let index = sequence.keys.named;
        sequence.keys.named += 1;
        if let Some(key) = sequence.key(index) {
            let parent = index.checked_sub(1).and_then(|before| sequence.key(before));
            pools.name(&sequence.tables, index, (key, parent), step);
        }
    }
    if sequence.keys.end_named.is_none() && sequence.computed >= sequence.spec.prompt_len {
        sequence.keys.end_named = Some(step);
        if let Some(key) = sequence.end_key() {
            pools.name_end(&sequence.tables, sequence.spec.prompt_len / size, key, step);
        }
    }
}
