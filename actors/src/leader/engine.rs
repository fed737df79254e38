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
    prefix::{Chain, Scope},
    wire::{
        generate::{Finish, FinishReason, Generate, GenerateDown, Usage},
        status::Load,
        step::{Outcome, SampledTokens, Span, StepPlan, StepResult},
    },
};

use super::{
    refuse,
    request::{Ended, Request, RequestKey, Times},
    settings::EngineSettings,
};
use crate::{
    kv::blocks::BlockPools,
    scheduler::{Completed, Counters, Scheduler, Sequence, SequenceSpec},
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
    /// Nothing new is taken from now on.
    Drain,
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
    /// The bookkeeping does not add up: the group cannot be trusted and must be formed anew.
    Broken(String),
}

/// What is worth counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A step with so many tokens was planned.
    Step {
        /// Tokens computed.
        tokens: u32,
    },
    /// A choice ran for the first time.
    Started {
        /// Since it was asked for.
        waited: Duration,
    },
    /// A choice ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
        /// When its stages began and ended, if it ever ran.
        times: Option<Times>,
        /// How often it lost its blocks.
        preemptions: u32,
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
    /// Whether the books were checked since there was last work.
    checked: bool,
    /// Nothing new is taken.
    draining: bool,
}

impl Engine {
    /// An engine over pools with these many blocks per KV group.
    pub fn new(settings: EngineSettings, blocks: &[u32]) -> Self {
        let limits = settings.scheduling(blocks);
        let scheduler = Scheduler::new(limits, BlockPools::new(settings.limits.block_size, blocks));
        let (requests, owners) = (BTreeMap::new(), BTreeMap::new());
        let (steps, tokens, checked, draining) = (0, 0, false, false);
        Self { settings, scheduler, requests, owners, steps, tokens, checked, draining }
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, now: Duration, event: EngineEvent) -> Vec<EngineEffect> {
        let mut effects = Vec::new();
        match event {
            EngineEvent::Submit(generate) => self.submit(now, *generate, &mut effects),
            EngineEvent::Finish(key, finish) => self.finish(now, key, &finish, &mut effects),
            EngineEvent::Abort(key) => self.abort(key, &mut effects),
            EngineEvent::Result(result) => self.apply(now, result, &mut effects),
            EngineEvent::Tick => {
                self.expire(now, &mut effects);
                self.check_when_idle(&mut effects);
            }
            EngineEvent::Drain => self.draining = true,
            EngineEvent::Fail(error) => {
                self.fail_all(&error, &mut effects);
                return effects;
            }
        }
        while let Some(plan) = self.scheduler.compose(self.settings.endpoint.epoch) {
            self.planned(now, &plan, &mut effects);
            effects.push(EngineEffect::Plan(plan));
        }
        effects
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let (running, waiting) = self.scheduler.counts();
        let usage = self.scheduler.usage();
        let (steps, tokens) = (self.steps, self.tokens);
        Load { running, waiting, blocks_used: usage.held, blocks_total: usage.total, steps, tokens }
    }

    /// Steps planned and not done: while there are some, progress is owed.
    pub fn steps_in_flight(&self) -> usize {
        self.scheduler.steps_in_flight()
    }

    /// Requests that it has taken and not ended.
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> Counters {
        self.scheduler.counters()
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

    /// Nobody waits for an idle engine, so it looks at its books: once after every time of work.
    fn check_when_idle(&mut self, effects: &mut Vec<EngineEffect>) {
        let idle = self.requests.is_empty() && self.scheduler.steps_in_flight() == 0;
        if idle && !std::mem::replace(&mut self.checked, idle) {
            let held = self.scheduler.usage().held;
            let leaked = (held > 0).then(|| format!("{held} KV blocks are held by nobody"));
            let broken = self.check_integrity().err().or(leaked);
            effects.extend(broken.map(EngineEffect::Broken));
        }
        self.checked = idle;
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
        let chain = self.chain(&generate);
        let mut first_choice = None;
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
                chain,
                first_choice,
            });
            // Where the prompt's own logits are wanted, every choice computes them.
            if options.prompt_logprobs.is_none() {
                first_choice = first_choice.or(Some(id));
            }
            request.open(id, choice.index, choice.output.len() as u32);
            self.owners.insert(id, key);
        }
        self.requests.insert(key, request);
    }

    /// Where the hashes of a request's blocks begin. Without a prefix cache its choices still share
    /// the prompt, but no other request shares with them.
    fn chain(&self, generate: &Generate) -> Chain {
        let own = (!self.settings.limits.prefix_caching)
            .then(|| format!("{}/{}", generate.request, generate.attempt));
        let scope = Scope {
            model: self.settings.model,
            kv_dtype: &self.settings.kv_dtype,
            adapter: generate.adapter.as_deref(),
            salt: own.as_deref().or(generate.cache_salt.as_deref()),
        };
        Chain::new(&self.settings.prefix_key, &scope)
    }

    fn planned(&mut self, now: Duration, plan: &StepPlan, effects: &mut Vec<EngineEffect>) {
        let tokens = plan.tokens();
        self.tokens += u64::from(tokens);
        effects.push(EngineEffect::Observe(Observation::Step { tokens }));
        for new in &plan.new {
            let request = self.owners.get(&new.sequence).and_then(|key| self.requests.get_mut(key));
            let cached = self.scheduler.sequence(new.sequence).map_or(0, |s| s.cached_tokens());
            let waited = request.and_then(|request| request.start(new.sequence, now, cached));
            let started = waited.map(|waited| Observation::Started { waited });
            effects.extend(started.map(EngineEffect::Observe));
        }
    }

    fn admit(&self, key: RequestKey, generate: &Generate) -> Result<(), PublicError> {
        if self.requests.contains_key(&key) {
            let why = "this attempt is under way already";
            return Err(PublicError::new(ErrorKind::BadRequest, why));
        }
        if self.draining {
            let why = format!("{} takes no new requests", self.settings.endpoint);
            return Err(PublicError::new(ErrorKind::Unavailable, why));
        }
        let waiting = self.scheduler.counts().1;
        refuse::check(&self.settings, generate, waiting, self.longest())
    }

    /// Most positions of one sequence: the model's context, or what the blocks can hold.
    fn longest(&self) -> u32 {
        let blocks = self.scheduler.usage().total;
        self.settings
            .limits
            .max_model_len
            .min(blocks.saturating_mul(self.settings.limits.block_size))
    }

    fn apply(&mut self, now: Duration, result: StepResult, effects: &mut Vec<EngineEffect>) {
        // A result of another epoch, or one told twice, is dropped: its step is not in flight.
        if result.epoch != self.settings.endpoint.epoch {
            return;
        }
        let Ok(completed) = self.scheduler.complete(result) else { return };
        self.steps += 1;
        // Most steps bring one chunk for each sequence, then a plan.
        effects.reserve(completed.len() + 2);
        for Completed { id, span, outcome } in completed {
            match outcome {
                None => {}
                Some(Outcome::Tokens(sampled)) => {
                    self.take_tokens(now, (id, span), sampled, effects);
                }
                Some(Outcome::PromptLogprobs(logprobs)) => {
                    if let Some(request) = self.request_of(id) {
                        request.add_prompt_logprobs(id, span.computed, logprobs);
                    }
                }
                Some(Outcome::Failed(why)) => self.fail_sequence(id, why, effects),
                Some(Outcome::Embedding(_)) => {
                    self.fail_sequence(id, "an embedding was not asked for".into(), effects);
                }
            }
            self.end_if_prompt_only(now, id, effects);
            self.scheduler.settle(id);
        }
    }

    fn take_tokens(
        &mut self,
        now: Duration,
        (id, span): (SequenceId, Span),
        sampled: SampledTokens,
        effects: &mut Vec<EngineEffect>,
    ) {
        // Looked up once: this is done for every sequence of every step.
        let Some(&key) = self.owners.get(&id) else { return };
        let Some(request) = self.requests.get_mut(&key) else { return };
        request.add_prompt_logprobs(id, span.computed, sampled.prompt_logprobs);
        let mut logprobs = sampled.logprobs.into_iter();
        let mut tokens = sampled.tokens;
        while let Some(&token) = tokens.first() {
            // The first keeps the allocation: mostly it is the only one.
            let rest = tokens.split_off(1);
            let own = std::mem::replace(&mut tokens, rest);
            let Some(advance) = request.advance(id, now, own, logprobs.next()) else { return };
            effects.push(EngineEffect::Send(key, GenerateDown::Chunk(advance.chunk)));
            if let Some(end) = advance.ended {
                self.end_choice(key, id, end, effects);
                return;
            }
            self.scheduler.append(id, token);
        }
    }

    fn request_of(&mut self, id: SequenceId) -> Option<&mut Request> {
        self.requests.get_mut(self.owners.get(&id)?)
    }

    /// A request with `max_tokens` 0 ends when its prompt is computed.
    fn end_if_prompt_only(
        &mut self,
        now: Duration,
        id: SequenceId,
        effects: &mut Vec<EngineEffect>,
    ) {
        if !self.scheduler.sequence(id).is_some_and(Sequence::is_caught_up) {
            return;
        }
        let Some(request) = self.request_of(id).filter(|request| request.is_prompt_only()) else {
            return;
        };
        let key = request.key;
        let Some(advance) = request.finish_without_token(id, now) else { return };
        effects.push(EngineEffect::Send(key, GenerateDown::Chunk(advance.chunk)));
        if let Some(end) = advance.ended {
            self.end_choice(key, id, end, effects);
        }
    }

    fn end_choice(
        &mut self,
        key: RequestKey,
        id: SequenceId,
        end: Ended,
        effects: &mut Vec<EngineEffect>,
    ) {
        self.owners.remove(&id);
        let preemptions = self.scheduler.sequence(id).map_or(0, Sequence::preemptions);
        self.scheduler.release(id);
        let Ended { reason, usage, times } = end;
        let observation = Observation::Finished { reason, usage, times, preemptions };
        effects.push(EngineEffect::Observe(observation));
        if self.requests.get(&key).is_some_and(|request| request.choices.is_empty()) {
            self.requests.remove(&key);
            effects.push(EngineEffect::Close(key));
        }
    }

    fn finish(
        &mut self,
        now: Duration,
        key: RequestKey,
        finish: &Finish,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Some((id, end)) = request.finish(finish, now) else { return };
        self.end_choice(key, id, end, effects);
    }

    fn abort(&mut self, key: RequestKey, effects: &mut Vec<EngineEffect>) {
        let Some(request) = self.requests.remove(&key) else { return };
        for choice in request.choices {
            self.owners.remove(&choice.sequence);
            let preemptions =
                self.scheduler.sequence(choice.sequence).map_or(0, Sequence::preemptions);
            self.scheduler.release(choice.sequence);
            let (reason, usage) = (FinishReason::Abort, Usage::default());
            let observation = Observation::Finished { reason, usage, times: None, preemptions };
            effects.push(EngineEffect::Observe(observation));
        }
        effects.push(EngineEffect::Close(key));
    }

    /// Ends the request of a sequence that cannot go on; its KV may be as bad as its logits.
    fn fail_sequence(&mut self, id: SequenceId, why: String, effects: &mut Vec<EngineEffect>) {
        let Some(&key) = self.owners.get(&id) else { return };
        let error = PublicError::new(ErrorKind::Internal, why);
        effects.push(EngineEffect::Send(key, GenerateDown::Failed(error)));
        self.scheduler.discard(id);
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
