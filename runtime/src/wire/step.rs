//! One forward pass, as the leader tells it to every stage, and its result.
//!
//! A [`StepPlan`] is a *diff*: workers mirror the sequences, so a new one is told in full once and
//! a running one costs a few numbers. Every worker of a group gets the same plan at the same time
//! and keeps the same mirror; the last stage's tensor rank 0 answers with a [`StepResult`].

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    Tokens, bounded,
    generate::{MAX_TOKENS, SamplingOptions, TokenLogprobs},
};
use crate::id::{AdapterId, BlockId, Epoch, RequestId, SequenceId, StepId};

/// Most sequences in one step.
pub const MAX_SEQUENCES: usize = 65_536;

/// What to run.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepKind {
    /// A batch.
    #[default]
    Run,
    /// Nothing but the collectives: keeps data-parallel ranks in lock-step.
    Dummy,
}

/// One step's work. Sequences run in the order `new`, `resumed`, `running`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct StepPlan {
    /// The group's incarnation; a worker of another refuses the plan.
    pub epoch: Epoch,
    /// This step.
    pub step: StepId,
    /// Run or dummy.
    pub kind: StepKind,
    /// Sequences that the workers have not seen: everything they will ever need of each.
    pub new: Vec<NewSequence>,
    /// Preempted ones that start again: their block tables are replaced.
    pub resumed: Vec<ResumedSequence>,
    /// Ones that the workers hold already.
    pub running: Vec<RunningSequence>,
    /// Forget these before anything else.
    pub finished: Vec<SequenceId>,
    /// These lost their blocks; their tokens stay known.
    pub preempted: Vec<SequenceId>,
    /// Copied before anything is computed: a sequence that shares the beginning of a block gets a
    /// block of its own before it writes there.
    pub copies: Vec<BlockCopy>,
}

/// One KV block to copy into another of the same group, over all layers.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// KV group.
    pub group: u32,
    /// Read.
    pub from: BlockId,
    /// Written.
    pub to: BlockId,
}

/// A block that turned out to hold what another one holds, and gives way to it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSwap {
    /// KV group.
    pub group: u32,
    /// Place in the sequence's block table.
    pub index: u32,
    /// The block that stands there from now on.
    pub block: BlockId,
}

/// Which of a step's positions of one sequence are computed, and what for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Positions before this one have their KV in blocks already.
    pub computed: u32,
    /// How many positions this step computes, starting at `computed`.
    pub count: u32,
    /// Whether the last of them yields a token (not so for a chunk that ends inside the prompt).
    pub sample: bool,
}

/// A sequence that is new to the workers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NewSequence {
    /// Its id for as long as it lives.
    pub sequence: SequenceId,
    /// Whose it is: ranks write down what they are at.
    pub request: RequestId,
    /// The prompt, then the output that earlier attempts delivered.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are prompt.
    pub prompt_len: u32,
    /// The client's choice index, which keys random numbers.
    pub choice: u32,
    /// Keys random numbers.
    pub seed: u64,
    /// How to choose tokens, grammar included.
    pub options: SamplingOptions,
    /// LoRA adapter, which every rank knows.
    pub adapter: Option<AdapterId>,
    /// W3C trace context of the request, so that stages can be seen in its trace.
    pub traceparent: Option<String>,
    /// One block table per KV group.
    pub block_tables: Vec<Vec<BlockId>>,
    /// This step's work.
    pub span: Span,
}

/// A preempted sequence that starts again.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ResumedSequence {
    /// Which.
    pub sequence: SequenceId,
    /// Tokens that the mirrors lack.
    pub appended: Vec<u32>,
    /// One block table per KV group, from the start.
    pub block_tables: Vec<Vec<BlockId>>,
    /// This step's work.
    pub span: Span,
}

/// A sequence that the workers hold.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunningSequence {
    /// Which.
    pub sequence: SequenceId,
    /// Tokens that the mirrors lack: what the leader has learned since its last plan.
    pub appended: Tokens,
    /// The last input token is not known yet: it is what this earlier step samples for the
    /// sequence, and the last stage sends it to the first directly.
    pub placeholder: Option<StepId>,
    /// Blocks that replace earlier ones, before any are appended.
    pub swaps: Vec<BlockSwap>,
    /// Blocks to append to each KV group's table; empty if no table grows.
    pub new_blocks: Vec<Vec<BlockId>>,
    /// Draft tokens to verify (speculative decoding).
    pub drafts: Tokens,
    /// This step's work.
    pub span: Span,
}

/// What a step brought.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct StepResult {
    /// The group's incarnation.
    pub epoch: Epoch,
    /// The step.
    pub step: StepId,
    /// One entry for each sequence of the plan that asked for something, in plan order.
    pub outcomes: Vec<SequenceResult>,
    /// How long the last stage computed, in microseconds: feeds the step deadline.
    pub compute_us: u64,
}

/// One sequence's part of a step's result.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SequenceResult {
    /// Which.
    pub sequence: SequenceId,
    /// What.
    pub outcome: Outcome,
}

/// What a step can yield for a sequence.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Sampled tokens: one, or several when drafts were accepted.
    Tokens(SampledTokens),
    /// A pooled vector.
    Embedding(Vec<f32>),
    /// Only the prompt's log-probabilities: the chunk ended inside the prompt.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// This sequence alone cannot go on (its logits were not finite, its grammar broke).
    Failed(String),
}

/// What sampling gave for one sequence.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct SampledTokens {
    /// The tokens, in order.
    pub tokens: Tokens,
    /// One per token if asked for, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// Those of the prompt positions in this chunk, if asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
}

impl StepPlan {
    /// Tokens that the step computes.
    pub fn tokens(&self) -> u32 {
        self.spans().map(|(_, span)| span.count).sum()
    }

    /// Every sequence with its span, in batch order.
    pub fn spans(&self) -> impl Iterator<Item = (SequenceId, Span)> + Clone + '_ {
        self.new
            .iter()
            .map(|s| (s.sequence, s.span))
            .chain(self.resumed.iter().map(|s| (s.sequence, s.span)))
            .chain(self.running.iter().map(|s| (s.sequence, s.span)))
    }

    /// Refuses impossible lengths.
    pub(super) fn check(&self) -> Result<(), String> {
        bounded("new", &self.new, MAX_SEQUENCES)?;
        bounded("resumed", &self.resumed, MAX_SEQUENCES)?;
        bounded("running", &self.running, MAX_SEQUENCES)?;
        bounded("finished", &self.finished, MAX_SEQUENCES)?;
        bounded("preempted", &self.preempted, MAX_SEQUENCES)?;
        bounded("copies", &self.copies, MAX_SEQUENCES)?;
        for new in &self.new {
            bounded("tokens", &new.tokens, MAX_TOKENS)?;
            if new.prompt_len as usize > new.tokens.len() {
                return Err(format!(
                    "prompt_len is {} with {} tokens",
                    new.prompt_len,
                    new.tokens.len()
                ));
            }
            new.options.check()?;
        }
        for (sequence, span) in self.spans() {
            let end = u64::from(span.computed) + u64::from(span.count);
            if span.count == 0 || end > MAX_TOKENS as u64 {
                return Err(format!(
                    "the span of sequence {sequence} is {}+{}, 1 to {MAX_TOKENS} is possible",
                    span.computed, span.count
                ));
            }
        }
        Ok(())
    }
}
