//! The sequences of an engine, where each stands, and what each holds.

use std::collections::{BTreeMap, VecDeque};

use troupe_runtime::{
    id::{SequenceId, StepId},
    wire::{generate::SamplingOptions, step::StepResult},
};

use crate::kv::blocks::{BlockPools, BlockTables};

/// Bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in a step.
    pub max_batched_tokens: u32,
    /// Most sequences that run at a time.
    pub max_sequences: u32,
    /// Most steps in flight: one per stage.
    pub depth: u32,
}

/// What the scheduler has to know of a sequence to run it.
#[derive(Clone, Debug)]
pub struct SequenceSpec {
    /// The prompt, then output of earlier attempts.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are prompt.
    pub prompt_len: u32,
    /// The client's choice index.
    pub choice: u32,
    /// Keys random numbers.
    pub seed: u64,
    /// How to choose tokens.
    pub options: SamplingOptions,
    /// LoRA adapter.
    pub adapter: Option<String>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Lower is preempted later.
    pub priority: i32,
}

/// A sequence on its way.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub(super) spec: SequenceSpec,
    /// Positions whose KV is in blocks, or will be once the steps in flight are done.
    pub(super) computed: u32,
    pub(super) tables: BlockTables,
    pub(super) in_flight: Option<StepId>,
    /// How many of `tokens` the workers know; `None` before they have seen the sequence.
    pub(super) mirrored: Option<u32>,
    /// It lost its blocks since the workers last ran it.
    pub(super) preempted: bool,
    /// It is over, but a step in flight still holds it.
    pub(super) closing: bool,
}

/// The queues, the blocks and the steps in flight of one engine.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(super) limits: Limits,
    pub(super) pools: BlockPools,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    pub(super) waiting: VecDeque<SequenceId>,
    pub(super) running: Vec<SequenceId>,
    pub(super) in_flight: BTreeMap<StepId, Vec<SequenceId>>,
    /// Told to the workers with the next plan.
    pub(super) finished: Vec<SequenceId>,
    /// Told to the workers with the next plan.
    pub(super) preempted: Vec<SequenceId>,
    pub(super) preemptions: u64,
    pub(super) last_sequence: u64,
    pub(super) last_step: u64,
}

impl Scheduler {
    /// A scheduler with empty queues.
    pub fn new(limits: Limits, pools: BlockPools) -> Self {
        assert!(limits.max_batched_tokens > 0 && limits.max_sequences > 0 && limits.depth > 0);
        Self {
            limits,
            pools,
            sequences: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            in_flight: BTreeMap::new(),
            finished: Vec::new(),
            preempted: Vec::new(),
            preemptions: 0,
            last_sequence: 0,
            last_step: 0,
        }
    }

    /// Puts a sequence at the end of the queue.
    pub fn add(&mut self, spec: SequenceSpec) -> SequenceId {
        self.last_sequence += 1;
        let id = SequenceId(self.last_sequence);
        let sequence = Sequence {
            spec,
            computed: 0,
            tables: self.pools.tables(),
            in_flight: None,
            mirrored: None,
            preempted: false,
            closing: false,
        };
        self.sequences.insert(id, sequence);
        self.waiting.push_back(id);
        id
    }

    /// Whether a sequence of this many positions could run at all.
    pub fn could_ever_hold(&self, positions: u32) -> bool {
        self.pools.could_ever_hold(positions)
    }

    /// Notes that a step is done and returns the sequences it held that are still wanted.
    ///
    /// # Errors
    /// A result for a step that is not in flight.
    pub fn complete(&mut self, result: &StepResult) -> Result<Vec<SequenceId>, String> {
        let held = self
            .in_flight
            .remove(&result.step)
            .ok_or_else(|| format!("a result for step {}, which is not in flight", result.step))?;
        let mut wanted = Vec::with_capacity(held.len());
        for id in held {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            sequence.in_flight = None;
            if sequence.closing {
                self.remove(id);
            } else {
                wanted.push(id);
            }
        }
        Ok(wanted)
    }

    /// Adds a sampled token to a sequence.
    pub fn append(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.spec.tokens.push(token);
        }
    }

    /// A sequence, while it is wanted.
    pub fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(&id).filter(|sequence| !sequence.closing)
    }

    /// Ends a sequence: its blocks are free at once, or when the step that holds it is done.
    pub fn release(&mut self, id: SequenceId) {
        self.waiting.retain(|waiting| *waiting != id);
        self.running.retain(|running| *running != id);
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if sequence.in_flight.is_some() {
            sequence.closing = true;
        } else {
            self.remove(id);
        }
    }

    /// Sequences that run and that wait.
    pub fn counts(&self) -> (u32, u32) {
        (self.running.len() as u32, self.waiting.len() as u32)
    }

    /// Blocks in use and in all.
    pub fn usage(&self) -> (u32, u32) {
        self.pools.usage()
    }

    /// Preemptions since the start.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Steps in flight.
    pub fn steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Checks that every block and every sequence is where it should be.
    ///
    /// # Errors
    /// What is not.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.pools.check_integrity(self.sequences.values().map(|sequence| &sequence.tables))?;
        for (id, sequence) in &self.sequences {
            let places = usize::from(self.waiting.contains(id))
                + usize::from(self.running.contains(id))
                + usize::from(sequence.closing);
            if places != 1 {
                return Err(format!("sequence {id} is in {places} places, one is right"));
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.sequences.remove(&id) else { return };
        self.pools.release(&mut sequence.tables);
        self.preempted.retain(|preempted| *preempted != id);
        if sequence.mirrored.is_some() {
            self.finished.push(id);
        }
    }
}

impl Sequence {
    /// Prompt and output so far.
    pub fn tokens(&self) -> &[u32] {
        &self.spec.tokens
    }

    /// How many of the tokens are prompt.
    pub fn prompt_len(&self) -> u32 {
        self.spec.prompt_len
    }

    /// Whether every known token is computed.
    pub fn is_caught_up(&self) -> bool {
        self.computed == self.len()
    }

    pub(super) fn len(&self) -> u32 {
        // A sequence is at most the model's context long, which is a u32.
        self.spec.tokens.len() as u32
    }
}
