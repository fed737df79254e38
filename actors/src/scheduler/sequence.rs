//! One sequence at the leader: its tokens, how far it is computed, and what it holds.

use troupe_runtime::{
    id::{AdapterId, RequestId, SequenceId, StepId},
    prefix::Chain,
    wire::{
        generate::SamplingOptions,
        step::{BlockSwap, Span},
    },
};

use super::{arena::Serial, ngram::Seen, waiting::Place};
use crate::kv::{blocks::BlockTables, hit::PrefixKeys, pool::BlockKey};

/// What a sequence belongs to, as whoever added it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner(pub u64);

impl Owner {
    /// Of sequences that no request here owns; an [`Arena`](super::arena::Arena) gives no such id.
    pub const NOBODY: Self = Self(0);
}

/// What the scheduler has to know of a sequence to run it.
#[derive(Clone, Debug)]
pub struct SequenceSpec {
    /// Whose it is: nothing to the scheduler.
    pub owner: Owner,
    /// The request as everybody knows it, for the ranks to write down.
    pub request: RequestId,
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
    pub adapter: Option<AdapterId>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Lower runs sooner and is preempted later.
    pub priority: i32,
    /// Where the hashes of its blocks begin: everything that its KV depends on but the tokens.
    pub chain: Chain,
    /// Its blocks are read by others than steps: none gives way to an equal one, or leaves early.
    pub keeps_blocks: bool,
    /// Those of the prompt's first full blocks, as far as somebody has made them.
    pub hashes: Vec<BlockKey>,
    /// The sequence that computes the same prompt for it: the first choice of its request.
    pub first_choice: Option<SequenceId>,
}

/// A sequence on its way.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub(super) spec: SequenceSpec,
    pub(super) tables: BlockTables,
    /// Positions that steps up to the last planned one compute.
    pub(super) computed: u32,
    /// Positions that are computed: what results have said.
    pub(super) done: u32,
    /// Steps in flight that hold it.
    pub(super) in_flight: u32,
    /// Tokens that steps in flight sample.
    pub(super) pending: u32,
    /// The last step that held it.
    pub(super) last_step: StepId,
    /// The last step that samples for it.
    pub(super) last_sampling: StepId,
    /// How many of the tokens the workers know; `None` before they have seen the sequence.
    pub(super) mirrored: Option<u32>,
    /// How often it lost its blocks.
    pub(super) preemptions: u32,
    /// Admissions that there had been when it began to wait.
    pub(super) waits_since: u64,
    /// Positions that it found in the prefix cache when it first ran.
    pub(super) cached: u32,
    /// Blocks that gave way to equal ones since the workers were last told.
    pub(super) swaps: Vec<BlockSwap>,
    pub(super) keys: Keys,
    /// Its runs of tokens, if drafts are wanted.
    pub(super) seen: Seen,
}

/// Names of a sequence's blocks, and how far they are known to the pools.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    chain: Chain,
    full: Vec<BlockKey>,
    /// Of the prompt's last block, if that is not full.
    end: Option<BlockKey>,
    /// Blocks that have been named.
    pub(super) named: u32,
    /// The step that computes the end of the prompt, once that is planned.
    pub(super) end_named: Option<StepId>,
    /// Blocks that have been compared with others of the same name.
    pub(super) merged: u32,
}

impl Sequence {
    pub(super) fn new(mut spec: SequenceSpec, tables: BlockTables, block_size: u32) -> Self {
        let full = std::mem::take(&mut spec.hashes);
        let chain = full.last().map_or(spec.chain, |last| spec.chain.after(*last));
        let mut keys = Keys { chain, full, end: None, named: 0, end_named: None, merged: 0 };
        let prompt = spec.tokens.get(..spec.prompt_len as usize).unwrap_or(&spec.tokens);
        keys.extend(prompt, block_size);
        let rest = prompt.get(keys.full.len() * block_size as usize..).unwrap_or_default();
        keys.end = (!rest.is_empty()).then(|| keys.chain.peek(rest));
        keys.extend(&spec.tokens, block_size);
        Self {
            spec,
            tables,
            computed: 0,
            done: 0,
            in_flight: 0,
            pending: 0,
            last_step: StepId(0),
            last_sampling: StepId(0),
            mirrored: None,
            preemptions: 0,
            waits_since: 0,
            cached: 0,
            swaps: Vec::new(),
            keys,
            seen: Seen::default(),
        }
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.spec.owner
    }

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
        self.done == self.len()
    }

    /// Positions that it found in the prefix cache when it first ran.
    pub fn cached_tokens(&self) -> u32 {
        self.cached
    }

    /// How often it lost its blocks.
    pub fn preemptions(&self) -> u32 {
        self.preemptions
    }

    /// The step that may still touch what it gives back now, if one is in flight.
    pub(super) fn fence(&self) -> Option<StepId> {
        (self.in_flight > 0).then_some(self.last_step)
    }

    pub(super) fn len(&self) -> u32 {
        // A sequence is at most the model's context long, which is a u32.
        self.spec.tokens.len() as u32
    }

    /// Positions whose KV is wanted: of tokens that are known, and of those on their way.
    pub(super) fn wanted(&self) -> u32 {
        self.len() + self.pending
    }

    /// Tokens that it may yet be given beyond those on their way.
    pub(super) fn tokens_left(&self) -> u32 {
        let output = self.wanted().saturating_sub(self.spec.prompt_len);
        self.spec.options.max_tokens.saturating_sub(output)
    }

    /// What its last positions are computed for.
    pub(super) fn prefix(&self) -> PrefixKeys<'_> {
        let end = self.keys.end.map(|key| (key, self.spec.prompt_len));
        PrefixKeys { full: &self.keys.full, end }
    }

    pub(super) fn key(&self, index: u32) -> Option<BlockKey> {
        self.keys.full.get(index as usize).copied()
    }

    pub(super) fn end_key(&self) -> Option<BlockKey> {
        self.keys.end
    }

    pub(super) fn append(&mut self, token: u32, block_size: u32) {
        self.spec.tokens.push(token);
        self.keys.extend(&self.spec.tokens, block_size);
    }

    /// Plans `count` more positions in `step` and says which those are.
    pub(super) fn advance(&mut self, count: u32, step: StepId) -> Span {
        let computed = self.computed;
        self.computed += count;
        // Only the step that computes the last wanted position can yield the next token.
        let sample = self.spec.options.max_tokens > 0 && self.computed >= self.wanted();
        self.in_flight += 1;
        self.last_step = step;
        if sample {
            self.pending += 1;
            self.last_sampling = step;
        }
        Span { computed, count, sample }
    }

    /// Where it stands among those that wait.
    pub(super) fn place(&self, id: SequenceId) -> Place {
        Place { priority: self.spec.priority, since: self.waits_since, id }
    }

    /// Tokens that the workers lack; afterwards they have them.
    pub(super) fn mirror(&mut self) -> &[u32] {
        let known = self.mirrored.replace(self.len()).unwrap_or(0);
        self.spec.tokens.get(known as usize..).unwrap_or_default()
    }

    /// Forgets that anything is computed: its blocks are gone.
    pub(super) fn restart(&mut self) {
        self.computed = 0;
        self.done = 0;
        self.preemptions += 1;
        self.swaps.clear();
        (self.keys.named, self.keys.merged, self.keys.end_named) = (0, 0, None);
    }
}

impl Serial for Owner {
    fn of(number: u64) -> Self {
        Self(number)
    }

    fn number(self) -> u64 {
        self.0
    }
}

impl Keys {
    fn extend(&mut self, tokens: &[u32], block_size: u32) {
        let size = block_size as usize;
        while let Some(block) = tokens.get(self.full.len() * size..(self.full.len() + 1) * size) {
            let key = self.chain.push(block);
            self.full.push(key);
        }
    }
}
