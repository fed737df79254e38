//! One request at its leader: its choices, what each has produced, and when each ends.
//!
//! The order in which a token can end a choice is vLLM's: the model's own end, a stop token that
//! the client asked for, then the length. Before `min_tokens` nothing but the length ends it.

use std::time::Duration;

use troupe_runtime::{
    id::{RequestId, SequenceId},
    wire::{
        Tokens,
        generate::{
            Chunk, Finish, FinishReason, Finished, Generate, OutputKind, SamplingOptions,
            TokenLogprobs, Usage,
        },
    },
};

/// One attempt at one request: idempotent, so that a repeated message changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    /// The request.
    pub request: RequestId,
    /// The attempt.
    pub attempt: u32,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) key: RequestKey,
    pub(super) choices: Vec<OpenChoice>,
    pub(super) deadline: Duration,
    arrived: Duration,
    options: SamplingOptions,
    prompt_len: u32,
    /// Most output tokens: asked for, and what the context leaves.
    max_tokens: u32,
}

/// A choice that has not ended.
#[derive(Clone, Debug)]
pub(super) struct OpenChoice {
    pub(super) sequence: SequenceId,
    index: u32,
    /// Output tokens so far, those of earlier attempts included.
    produced: u32,
    /// Prompt tokens whose KV was found in the prefix cache.
    cached: u32,
    prompt_logprobs: Vec<TokenLogprobs>,
    started: Option<Duration>,
    first_token: Option<Duration>,
}

/// What a token did to its choice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Advance {
    pub(super) chunk: Chunk,
    pub(super) ended: Option<Ended>,
}

/// The end of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) reason: FinishReason,
    pub(super) usage: Usage,
    pub(super) times: Option<Times>,
}

/// How long the stages of a choice's life took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From its request to its first step.
    pub waited: Duration,
    /// From its first step to its first token.
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}

impl Request {
    /// A request whose choices will be opened with [`Request::open`].
    pub(super) fn new(generate: &Generate, now: Duration, longest: u32) -> Self {
        let prompt_len = generate.prompt.len() as u32;
        Self {
            key: RequestKey { request: generate.request, attempt: generate.attempt },
            choices: Vec::with_capacity(generate.choices.len()),
            deadline: now.saturating_add(Duration::from_millis(generate.time_left_ms)),
            arrived: now,
            options: generate.options.clone(),
            prompt_len,
            max_tokens: match generate.output {
                OutputKind::Tokens => {
                    generate.options.max_tokens.min(longest.saturating_sub(prompt_len))
                }
                // The vector comes where the first token would; it takes no position.
                OutputKind::Embedding => 1,
            },
        }
    }

    /// Opens a choice that has `output` tokens from earlier attempts.
    pub(super) fn open(&mut self, sequence: SequenceId, index: u32, output: u32) {
        self.choices.push(OpenChoice {
            sequence,
            index,
            produced: output,
            cached: 0,
            prompt_logprobs: Vec::new(),
            started: None,
            first_token: None,
        });
    }

    /// A choice is in its first step; returns how long it has waited for it.
    pub(super) fn start(&mut self, id: SequenceId, now: Duration, cached: u32) -> Option<Duration> {
        let prompt_len = self.prompt_len;
        let choice = self.choices.iter_mut().find(|choice| choice.sequence == id)?;
        choice.started = Some(now);
        choice.cached = cached.min(prompt_len);
        Some(now.saturating_sub(self.arrived))
    }

    /// Takes log-probabilities of the prompt tokens behind position `computed` on, until the
    /// choice's first chunk. A preempted prompt is computed, and told, again.
    pub(super) fn add_prompt_logprobs(
        &mut self,
        id: SequenceId,
        computed: u32,
        logprobs: Vec<TokenLogprobs>,
    ) {
        let most = self.prompt_len.saturating_sub(1) as usize;
        if let Some(choice) = self.choices.iter_mut().find(|choice| choice.sequence == id) {
            choice.prompt_logprobs.truncate(computed as usize);
            let room = most.saturating_sub(choice.prompt_logprobs.len());
            choice.prompt_logprobs.extend(logprobs.into_iter().take(room));
        }
    }

    /// Takes one sampled token.
    pub(super) fn advance(
        &mut self,
        id: SequenceId,
        now: Duration,
        token: u32,
        logprobs: Option<TokenLogprobs>,
    ) -> Option<Advance> {
        let at = self.choices.iter().position(|choice| choice.sequence == id)?;
        let choice = self.choices.get_mut(at)?;
        let position = choice.produced;
        choice.produced += 1;
        choice.first_token.get_or_insert(now);
        let ended = ends(&self.options, self.max_tokens, choice.produced, token);
        let mut chunk = chunk(self.key, choice, position);
        chunk.tokens.push(token);
        chunk.logprobs.extend(logprobs);
        let ended = ended.map(|(reason, stop_token)| {
            let choice = self.choices.remove(at);
            let usage = self.usage(&choice, choice.produced);
            chunk.finish = Some(Finished { reason, stop_token, usage });
            Ended { reason, usage, times: choice.times(self.arrived, now) }
        });
        Some(Advance { chunk, ended })
    }

    /// Ends a choice that is to produce nothing: only its prompt was asked about.
    pub(super) fn finish_without_token(
        &mut self,
        id: SequenceId,
        now: Duration,
    ) -> Option<Advance> {
        let at = self.choices.iter().position(|choice| choice.sequence == id)?;
        let mut choice = self.choices.remove(at);
        let position = choice.produced;
        let mut chunk = chunk(self.key, &mut choice, position);
        let (reason, usage) = (FinishReason::Length, self.usage(&choice, choice.produced));
        chunk.finish = Some(Finished { reason, stop_token: None, usage });
        Some(Advance {
            chunk,
            ended: Some(Ended { reason, usage, times: choice.times(self.arrived, now) }),
        })
    }

    /// Takes the prompt's vector, which ends its choice.
    pub(super) fn embed(
        &mut self,
        id: SequenceId,
        now: Duration,
        vector: Vec<f32>,
    ) -> Option<Advance> {
        let at = self.choices.iter().position(|choice| choice.sequence == id)?;
        let mut choice = self.choices.remove(at);
        let mut chunk = chunk(self.key, &mut choice, 0);
        chunk.embedding = vector;
        let (reason, usage) = (FinishReason::Stop, self.usage(&choice, 0));
        chunk.finish = Some(Finished { reason, stop_token: None, usage });
        let ended = Ended { reason, usage, times: choice.times(self.arrived, now) };
        Some(Advance { chunk, ended: Some(ended) })
    }

    /// The gateway ends a choice: what it keeps is what counts.
    pub(super) fn finish(&mut self, finish: &Finish, now: Duration) -> Option<(SequenceId, Ended)> {
        let at = self.choices.iter().position(|choice| choice.index == finish.choice)?;
        let choice = self.choices.remove(at);
        let usage = self.usage(&choice, choice.produced.min(finish.tokens_kept));
        let ended = Ended { reason: finish.reason, usage, times: choice.times(self.arrived, now) };
        Some((choice.sequence, ended))
    }

    /// Whether nothing is asked of the model but the prompt.
    pub(super) fn is_prompt_only(&self) -> bool {
        self.max_tokens == 0
    }

    /// The options with the length that the context leaves.
    pub(super) fn options(&self) -> SamplingOptions {
        SamplingOptions { max_tokens: self.max_tokens, ..self.options.clone() }
    }

    fn usage(&self, choice: &OpenChoice, completion_tokens: u32) -> Usage {
        let cached_tokens = choice.cached;
        Usage { prompt_tokens: self.prompt_len, cached_tokens, completion_tokens }
    }
}

impl OpenChoice {
    fn times(&self, arrived: Duration, now: Duration) -> Option<Times> {
        let started = self.started?;
        let waited = started.saturating_sub(arrived);
        let first = self.first_token.unwrap_or(now);
        let (prefill, decode) = (first.saturating_sub(started), now.saturating_sub(first));
        Some(Times { waited, prefill, decode })
    }
}

fn chunk(key: RequestKey, choice: &mut OpenChoice, position: u32) -> Chunk {
    Chunk {
        request: key.request,
        attempt: key.attempt,
        choice: choice.index,
        position,
        tokens: Tokens::new(),
        logprobs: Vec::new(),
        prompt_logprobs: std::mem::take(&mut choice.prompt_logprobs),
        cached_tokens: choice.cached,
        embedding: Vec::new(),
        finish: None,
    }
}

/// Whether the token that made it `produced` tokens ends a choice, and which stop token did.
fn ends(
    options: &SamplingOptions,
    max_tokens: u32,
    produced: u32,
    token: u32,
) -> Option<(FinishReason, Option<u32>)> {
    if produced >= options.min_tokens {
        if !options.ignore_eos && options.eos_token_ids.contains(&token) {
            return Some((FinishReason::Stop, None));
        }
        if options.stop_token_ids.contains(&token) {
            return Some((FinishReason::Stop, Some(token)));
        }
    }
    (produced >= max_tokens).then_some((FinishReason::Length, None))
}
