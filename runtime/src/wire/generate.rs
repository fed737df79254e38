//! One request between a gateway and a leader.
//!
//! The gateway opens a stream and sends [`GenerateUp::Start`]; the leader answers with
//! [`GenerateDown::Chunk`]s until every choice has a finish. Dropping the stream is the abort.
//! Stop *strings* are found at the gateway, which then sends [`GenerateUp::Finish`], so that a stop
//! is counted as one and later tokens are neither billed nor cached.
//!
//! All fields that a later version of the engine needs exist from the first; until then they are
//! empty. A moved stream carries the output so far in [`Choice::output`], and random numbers are
//! keyed by (seed, choice, position), so it goes on with the very tokens it would have had.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    Message, Tokens,
    adapter::{AdapterRef, MAX_NAME},
    at_most, bounded,
};
use crate::{
    error::PublicError,
    id::{Digest, EndpointId, RequestId},
};

/// Longest prompt plus output that a message may hold; the model's own limit is checked later.
pub const MAX_TOKENS: usize = 2 << 20;
/// Most elements of a text's vector.
pub const MAX_VECTOR: usize = 1 << 20;
/// Most choices of one request.
pub const MAX_CHOICES: usize = 1024;

/// Gateway to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum GenerateUp {
    /// Opens the conversation; exactly once, first.
    Start(Box<Generate>),
    /// The gateway found the end of one choice (a stop string, a tool call).
    Finish(Finish),
}

/// A request, complete: whoever holds it can execute it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Generate {
    /// Made by the gateway.
    pub request: RequestId,
    /// Which try this is, from 0; (request, attempt) is idempotent at the leader.
    pub attempt: u32,
    /// Nothing else may run beside it: processes have died of a step that held it.
    pub alone: bool,
    /// Whom it is for; a leader of another epoch refuses it.
    pub endpoint: EndpointId,
    /// Who pays: fair sharing between tenants.
    pub tenant: String,
    /// Lower runs sooner, as in vLLM.
    pub priority: i32,
    /// Time left until the answer is worthless, in milliseconds: a duration, because clocks differ.
    pub time_left_ms: u64,
    /// The prompt, tokenized.
    pub prompt: Vec<u32>,
    /// Hashes of the prompt's full blocks, computed once at the gateway; empty if it did not.
    pub block_hashes: Vec<u128>,
    /// Tokens per hashed block; 0 when there are no hashes.
    pub hash_block_size: u32,
    /// Where the hashes begin ([`crate::prefix::Chain::seed`]): a leader whose own begin elsewhere
    /// hashes the prompt itself. 0 when there are no hashes.
    pub hash_seed: u128,
    /// LoRA adapter; a leader refuses one that is not its own.
    pub adapter: Option<AdapterRef>,
    /// Separates this request's cached blocks from those of others.
    pub cache_salt: Option<String>,
    /// What is wanted of the model.
    pub output: OutputKind,
    /// How to choose tokens and when to stop.
    pub options: SamplingOptions,
    /// Drawn by the gateway before placement when the client gave none.
    pub seed: u64,
    /// One for each of `n` choices.
    pub choices: Vec<Choice>,
    /// Where the prompt's KV blocks may be fetched from (prefill apart from decode).
    pub kv_source: Option<KvSource>,
    /// W3C trace context of the request's span.
    pub traceparent: Option<String>,
    /// The model that the gateway tokenized for; a leader refuses one that is not its own.
    pub model: Digest,
    /// The tokenizer that it used.
    pub tokenizer: Digest,
}

/// What a request wants.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// Tokens that follow the prompt.
    #[default]
    Tokens,
    /// The vector of the prompt, in one chunk without tokens.
    Embedding,
}

/// A group that computes a prompt's KV for another, or has it already.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KvSource {
    /// Which.
    pub endpoint: EndpointId,
    /// Where its leader is reached.
    pub address: String,
    /// Only what its cache holds is asked for, which are so many tokens; without it all of the
    /// prompt is, and what is not cached is computed there.
    pub cached: Option<u32>,
}

/// One of a request's `n` choices.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Its index in the answer.
    pub index: u32,
    /// Tokens delivered by earlier attempts: they count for penalties, limits and grammar.
    pub output: Vec<u32>,
}

/// How tokens are chosen. Names, meanings and defaults are vLLM's.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keep what has at least this share of the likeliest token's probability; 0 keeps all.
    pub min_p: f32,
    /// Subtracted once from the logit of every token in the output.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output.
    pub frequency_penalty: f32,
    /// Divides (or multiplies, if negative) logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to single logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// If not empty, only these may be chosen.
    pub allowed_token_ids: Vec<u32>,
    /// Token sequences that must not appear.
    pub bad_words: Vec<Vec<u32>>,
    /// Most output tokens.
    pub max_tokens: u32,
    /// No end before this many output tokens.
    pub min_tokens: u32,
    /// The model's own ends, unless `ignore_eos`.
    pub eos_token_ids: Vec<u32>,
    /// Further ends, asked for by the client.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own end.
    pub ignore_eos: bool,
    /// How many alternatives to report per output token; `None` reports nothing.
    pub logprobs: Option<u32>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// Constrains the output.
    pub grammar: Option<Grammar>,
    /// Reasoning that goes before what the grammar holds; without it the grammar holds from the
    /// first token on.
    pub reasoning: Option<Reasoning>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            max_tokens: 16,
            min_tokens: 0,
            eos_token_ids: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
            grammar: None,
            reasoning: None,
        }
    }
}

/// What the output must match.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON schema, as text.
    JsonSchema(String),
    /// A grammar in the Lark syntax of `llguidance`, or in GBNF.
    Lark(String),
    /// A regular expression for the whole output.
    Regex(String),
}

/// The tokens that an output's reasoning stands between.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasoning {
    /// Begins it.
    pub open: u32,
    /// Ends it.
    pub close: u32,
    /// Whether the prompt has begun it; if not, the output's first token may.
    pub inside: bool,
}

/// The gateway ends one choice.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Which choice.
    pub choice: u32,
    /// Why.
    pub reason: FinishReason,
    /// How many of its output tokens count.
    pub tokens_kept: u32,
}

/// Leader to gateway.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum GenerateDown {
    /// Some tokens of one choice.
    Chunk(Chunk),
    /// Nothing was executed; the gateway may place the request elsewhere.
    Refused(PublicError),
    /// Execution began and cannot go on. Every open choice is over.
    Failed(PublicError),
    /// Execution began and is to go on elsewhere: what was computed stays here for a while, for
    /// whoever fetches it. Every open choice is over here.
    Moved(PublicError),
}

/// Consecutive tokens of one choice.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The request.
    pub request: RequestId,
    /// The attempt: chunks of older ones are dropped.
    pub attempt: u32,
    /// The choice's index.
    pub choice: u32,
    /// Output position of the first token: the gateway takes exactly the next one; lower is
    /// dropped, a gap breaks the attempt.
    pub position: u32,
    /// The tokens.
    pub tokens: Tokens,
    /// One entry per token if asked for, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// The prompt's, one entry per prompt token but the first; in the choice's first chunk only.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Prompt tokens whose KV was found in the prefix cache: known from the first chunk on, for a
    /// choice that the gateway ends.
    pub cached_tokens: u32,
    /// The prompt's vector, not cut and not normalized, if that was asked for; else empty.
    pub embedding: Vec<f32>,
    /// Set in the choice's last chunk.
    pub finish: Option<Finished>,
}

/// The end of a choice.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// The stop token that was asked for and hit; `None` for the model's own end.
    pub stop_token: Option<u32>,
    /// What it cost.
    pub usage: Usage,
}

/// Why a choice ended.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the model's context.
    Length,
    /// The client went away or asked for it.
    Abort,
    /// A fault.
    Error,
}

/// Tokens counted for one choice.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Of which their KV was found in the prefix cache.
    pub cached_tokens: u32,
    /// Output tokens.
    pub completion_tokens: u32,
}

/// The log-probability of a token and of its likeliest rivals.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// The token itself.
    pub token: u32,
    /// Its natural-log probability over the whole vocabulary.
    pub logprob: f32,
    /// Its place by probability, 1 being the likeliest.
    pub rank: u32,
    /// The likeliest tokens with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

// === impl Message ===

impl Message for GenerateUp {
    const NAME: &'static str = "GenerateUp";

    fn check(&self) -> Result<(), String> {
        let Self::Start(generate) = self else { return Ok(()) };
        bounded("prompt", &generate.prompt, MAX_TOKENS)?;
        bounded("block_hashes", &generate.block_hashes, MAX_TOKENS)?;
        bounded("choices", &generate.choices, MAX_CHOICES)?;
        if generate.prompt.is_empty() {
            return Err("prompt is empty, at least one token is needed".into());
        }
        if generate.choices.is_empty() {
            return Err("choices is empty, at least one is needed".into());
        }
        if let Some(adapter) = &generate.adapter {
            at_most("adapter", &adapter.name, MAX_NAME)?;
        }
        for choice in &generate.choices {
            bounded("output", &choice.output, MAX_TOKENS)?;
        }
        generate.options.check()
    }
}

impl SamplingOptions {
    /// Refuses values for which sampling has no meaning.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        let finite = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("repetition_penalty", self.repetition_penalty),
        ];
        for (field, value) in finite {
            if !value.is_finite() {
                return Err(format!("{field} is {value}, a finite number is needed"));
            }
        }
        if self.temperature < 0.0 || self.repetition_penalty <= 0.0 {
            return Err(
                "temperature must not be negative, repetition_penalty must be above 0".into()
            );
        }
        if self.logit_bias.iter().any(|(_, bias)| !bias.is_finite()) {
            return Err("logit_bias holds a number that is not finite".into());
        }
        Ok(())
    }
}

impl Message for GenerateDown {
    const NAME: &'static str = "GenerateDown";

    fn check(&self) -> Result<(), String> {
        let Self::Chunk(chunk) = self else { return Ok(()) };
        bounded("tokens", &chunk.tokens, MAX_TOKENS)?;
        bounded("embedding", &chunk.embedding, MAX_VECTOR)?;
        if !chunk.logprobs.is_empty() && chunk.logprobs.len() != chunk.tokens.len() {
            return Err(format!(
                "{} logprobs for {} tokens, one each or none is right",
                chunk.logprobs.len(),
                chunk.tokens.len()
            ));
        }
        Ok(())
    }
}
