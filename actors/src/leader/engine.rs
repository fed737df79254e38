//! The engine core: requests in, step plans and chunks out.
//!
//! [`Engine::handle`] is the whole of it: one closed enum of events, one of effects, and `now`
//! passed in. After every event it plans as many steps as the pipeline has room for. It never waits
//! and never refuses late: a request that cannot be served is refused before it costs anything,
//! with words that the gateway can act on.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::SequenceId,
    wire::{
        generate::{Finish, FinishReason, Generate, GenerateDown, TokenLogprobs, Usage},
        status::Load,
        step::{Outcome, SampledTokens, StepPlan, StepResult},
    },
};

use super::{
    request::{Request, RequestKey},
    settings::EngineSettings,
};
use crate::{
    kv::blocks::BlockPools,
    scheduler::{Limits, Scheduler, SequenceSpec},
};

/// What can happen to an engine.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// A gateway asks.
    Submit(Box<Generate>),
    /// A gateway found the end of a choice.
    Finish(RequestKey, Finish),
    /// A gateway is gone, or its client, or it does not read.
    Abort(RequestKey),
    /// A step is done.
    Result(StepResult),
    /// Time has passed.
    Tick,
    /// The group is over: nothing that is under way can go on.
    Fail(PublicError),
}

/// What an engine wants done.
#[derive(Clone, Debug)]
pub enum EngineEffect {
    /// Send this plan to every stage.
    Plan(StepPlan),
    /// Send this to the request's gateway.
    Send(RequestKey, GenerateDown),
    /// Nothing more follows for this request.
    Close(RequestKey),
    /// Count this.
    Observe(Observation),
}

/// What is worth counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A step with so many tokens was planned.
    Step {
        /// Tokens computed.
        tokens: u32,
    },
    /// A choice ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// A request was refused.
    Refused,
}

/// One group's engine.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: EngineSettings,
    scheduler: Scheduler,
    requests: BTreeMap<RequestKey, Request>,
    /// Whose each sequence is.
    owners: BTreeMap<SequenceId, RequestKey>,
    steps: u64,
    tokens: u64,
}

impl Engine {
    /// An engine over pools with these many blocks per KV group.
    pub fn new(settings: EngineSettings, blocks: &[u32]) -> Self {
        let limits = Limits {
            max_batched_tokens: settings.limits.max_num_batched_tokens,
            max_sequences: settings.limits.max_num_seqs,
            depth: settings.steps_in_flight,
        };
        let scheduler = Scheduler::new(limits, BlockPools::new(settings.limits.block_size, blocks));
        let (requests, owners) = (BTreeMap::new(), BTreeMap::new());
        Self { settings, scheduler, requests, owners, steps: 0, tokens: 0 }
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, now: Duration, event: EngineEvent) -> Vec<EngineEffect> {
        let mut effects = Vec::new();
        match event {
            EngineEvent::Submit(generate) => self.submit(now, *generate, &mut effects),
            EngineEvent::Finish(key, finish) => self.finish(key, &finish, &mut effects),
            EngineEvent::Abort(key) => self.abort(key, &mut effects),
            EngineEvent::Result(result) => self.apply(result, &mut effects),
            EngineEvent::Tick => self.expire(now, &mut effects),
            EngineEvent::Fail(error) => {
                self.fail_all(&error, &mut effects);
                return effects;
            }
        }
        while let Some(plan) = self.scheduler.compose(self.settings.endpoint.epoch) {
            let tokens = plan.tokens();
            self.tokens += u64::from(tokens);
            effects.push(EngineEffect::Observe(Observation::Step { tokens }));
            effects.push(EngineEffect::Plan(plan));
        }
        effects
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let (running, waiting) = self.scheduler.counts();
        let (blocks_used, blocks_total) = self.scheduler.usage();
        let (steps, tokens) = (self.steps, self.tokens);
        Load { running, waiting, blocks_used, blocks_total, steps, tokens }
    }

    /// Steps planned and not done: while there are some, progress is owed.
    pub fn steps_in_flight(&self) -> usize {
        self.scheduler.steps_in_flight()
    }

    /// Preemptions since the start.
    pub fn preemptions(&self) -> u64 {
        self.scheduler.preemptions()
    }

    /// Checks its own bookkeeping; for idle moments and for tests.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.scheduler.check_integrity()?;
        let owned = self.requests.values().map(|request| request.choices.len()).sum::<usize>();
        if owned == self.owners.len() {
            return Ok(());
        }
        Err(format!("{owned} open choices, but {} sequences have owners", self.owners.len()))
    }

    fn submit(&mut self, now: Duration, generate: Generate, effects: &mut Vec<EngineEffect>) {
        let key = RequestKey { request: generate.request, attempt: generate.attempt };
        if let Err(error) = self.admit(key, &generate) {
            effects.push(EngineEffect::Send(key, GenerateDown::Refused(error)));
            effects.push(EngineEffect::Close(key));
            effects.push(EngineEffect::Observe(Observation::Refused));
            return;
        }
        let mut request = Request::new(&generate, now, self.longest());
        let options = request.options();
        for choice in &generate.choices {
            let mut tokens = generate.prompt.clone();
            tokens.extend(&choice.output);
            let id = self.scheduler.add(SequenceSpec {
                tokens,
                prompt_len: generate.prompt.len() as u32,
                choice: choice.index,
                seed: generate.seed,
                options: options.clone(),
                adapter: generate.adapter.clone(),
                traceparent: generate.traceparent.clone(),
                priority: generate.priority,
            });
            request.open(id, choice.index, choice.output.len() as u32);
            self.owners.insert(id, key);
        }
        self.requests.insert(key, request);
    }

    /// Refuses what cannot be served here.
    fn admit(&self, key: RequestKey, generate: &Generate) -> Result<(), PublicError> {
        let refuse = |kind, message: String| Err(PublicError::new(kind, message));
        if generate.endpoint != self.settings.endpoint {
            let message = format!("{} is no longer here", generate.endpoint);
            return refuse(ErrorKind::Unavailable, message);
        }
        if generate.model != self.settings.model || generate.tokenizer != self.settings.tokenizer {
            let message = "this endpoint serves another version of the model".into();
            return refuse(ErrorKind::Unavailable, message);
        }
        if self.requests.contains_key(&key) {
            return refuse(ErrorKind::BadRequest, "this attempt is under way already".into());
        }
        if generate.adapter.is_some() {
            return refuse(ErrorKind::NotFound, "this endpoint has no LoRA adapters".into());
        }
        let waiting = self.scheduler.counts().1 as usize + generate.choices.len();
        if waiting > self.settings.limits.max_num_queued as usize {
            let message = "The engine is currently busy and cannot accept new requests. Please try \
                           again later or on a different instance.";
            return refuse(ErrorKind::Overloaded, message.into());
        }
        let output = generate.choices.iter().map(|choice| choice.output.len()).max().unwrap_or(0);
        let wants = usize::from(generate.options.max_tokens > output as u32);
        let needs = generate.prompt.len() + output + wants;
        let longest = self.longest() as usize;
        if needs > longest {
            let message = format!(
                "This model's maximum context length is {longest} tokens. However, the request \
                 needs at least {needs}."
            );
            return Err(PublicError::bad_request(message, "input_tokens"));
        }
        if let Some(token) = generate.prompt.iter().find(|t| **t >= self.settings.vocab_size) {
            let message = format!(
                "Token id {token} is out of vocabulary: the model has {} tokens",
                self.settings.vocab_size
            );
            return Err(PublicError::bad_request(message, "prompt"));
        }
        Ok(())
    }

    /// Most positions of one sequence: the model's context, or what the blocks can hold.
    fn longest(&self) -> u32 {
        let (_, blocks) = self.scheduler.usage();
        self.settings
            .limits
            .max_model_len
            .min(blocks.saturating_mul(self.settings.limits.block_size))
    }

    fn apply(&mut self, result: StepResult, effects: &mut Vec<EngineEffect>) {
        // A result of another epoch, or one told twice, is dropped: its step is not in flight.
        if result.epoch != self.settings.endpoint.epoch {
            return;
        }
        let Ok(wanted) = self.scheduler.complete(&result) else { return };
        self.steps += 1;
        for entry in result.outcomes {
            if !wanted.contains(&entry.sequence) {
                continue;
            }
            let id = entry.sequence;
            match entry.outcome {
                Outcome::Tokens(sampled) => self.take_tokens(id, sampled, effects),
                Outcome::PromptLogprobs(logprobs) => self.take_prompt_logprobs(id, logprobs),
                Outcome::Failed(why) => self.fail_sequence(id, why, effects),
                Outcome::Embedding(_) => {
                    self.fail_sequence(id, "an embedding was not asked for".into(), effects);
                }
            }
        }
        for id in wanted {
            self.end_if_prompt_only(id, effects);
        }
    }

    fn take_tokens(
        &mut self,
        id: SequenceId,
        sampled: SampledTokens,
        effects: &mut Vec<EngineEffect>,
    ) {
        self.take_prompt_logprobs(id, sampled.prompt_logprobs);
        let mut logprobs = sampled.logprobs.into_iter();
        for token in sampled.tokens {
            let Some(request) = self.owners.get(&id).and_then(|key| self.requests.get_mut(key))
            else {
                return;
            };
            let Some(advance) = request.advance(id, token, logprobs.next()) else { return };
            let usage = advance.chunk.finish.as_ref().map(|finished| finished.usage);
            let key = request.key;
            effects.push(EngineEffect::Send(key, GenerateDown::Chunk(advance.chunk)));
            if let (Some(reason), Some(usage)) = (advance.ended, usage) {
                self.end_choice(key, id, reason, usage, effects);
                return;
            }
            self.scheduler.append(id, token);
        }
    }

    fn take_prompt_logprobs(&mut self, id: SequenceId, logprobs: Vec<TokenLogprobs>) {
        if let Some(request) = self.owners.get(&id).and_then(|key| self.requests.get_mut(key)) {
            request.add_prompt_logprobs(id, logprobs);
        }
    }

    /// A request with `max_tokens` 0 ends when its prompt is computed.
    fn end_if_prompt_only(&mut self, id: SequenceId, effects: &mut Vec<EngineEffect>) {
        let Some(request) = self.owners.get(&id).and_then(|key| self.requests.get_mut(key)) else {
            return;
        };
        let done = self.scheduler.sequence(id).is_some_and(|sequence| sequence.is_caught_up());
        if !request.is_prompt_only() || !done {
            return;
        }
        let key = request.key;
        let Some(chunk) = request.finish_without_token(id) else { return };
        let usage = chunk.finish.as_ref().map(|finished| finished.usage).unwrap_or_default();
        effects.push(EngineEffect::Send(key, GenerateDown::Chunk(chunk)));
        self.end_choice(key, id, FinishReason::Length, usage, effects);
    }

    fn end_choice(
        &mut self,
        key: RequestKey,
        id: SequenceId,
        reason: FinishReason,
        usage: Usage,
        effects: &mut Vec<EngineEffect>,
    ) {
        self.owners.remove(&id);
        self.scheduler.release(id);
        effects.push(EngineEffect::Observe(Observation::Finished { reason, usage }));
        if self.requests.get(&key).is_some_and(|request| request.choices.is_empty()) {
            self.requests.remove(&key);
            effects.push(EngineEffect::Close(key));
        }
    }

    fn finish(&mut self, key: RequestKey, finish: &Finish, effects: &mut Vec<EngineEffect>) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Some((id, usage)) = request.finish(finish) else { return };
        self.end_choice(key, id, finish.reason, usage, effects);
    }

    fn abort(&mut self, key: RequestKey, effects: &mut Vec<EngineEffect>) {
        let Some(request) = self.requests.remove(&key) else { return };
        for choice in request.choices {
            self.owners.remove(&choice.sequence);
            self.scheduler.release(choice.sequence);
            let (reason, usage) = (FinishReason::Abort, Usage::default());
            effects.push(EngineEffect::Observe(Observation::Finished { reason, usage }));
        }
        effects.push(EngineEffect::Close(key));
    }

    fn fail_sequence(&mut self, id: SequenceId, why: String, effects: &mut Vec<EngineEffect>) {
        let Some(&key) = self.owners.get(&id) else { return };
        let error = PublicError::new(ErrorKind::Internal, why);
        effects.push(EngineEffect::Send(key, GenerateDown::Failed(error)));
        self.abort(key, effects);
    }

    fn expire(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let late: Vec<_> = self
            .requests
            .values()
            .filter(|request| request.deadline <= now)
            .map(|request| request.key)
            .collect();
        for key in late {
            let message = "The request's deadline has passed.";
            let error = PublicError::new(ErrorKind::DeadlineExceeded, message);
            effects.push(EngineEffect::Send(key, GenerateDown::Failed(error)));
            self.abort(key, effects);
        }
    }

    fn fail_all(&mut self, error: &PublicError, effects: &mut Vec<EngineEffect>) {
        let keys: Vec<_> = self.requests.keys().copied().collect();
        for key in keys {
            effects.push(EngineEffect::Send(key, GenerateDown::Failed(error.clone())));
            self.abort(key, effects);
        }
    }
}
