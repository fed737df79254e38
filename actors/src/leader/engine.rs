//! The engine core: requests in, step plans and chunks out.
//!
//! [`Engine::handle`] is the whole of it: one closed enum of events, one of effects, and `now`
//! passed in. After every event it plans as many steps as the pipeline has room for. It never waits
//! and never refuses late: a request that cannot be served is refused before it costs anything,
//! with words that the gateway can act on.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::{AdapterId, Digest, SequenceId},
    prefix::Chain,
    wire::{
        generate::{Finish, FinishReason, Generate, GenerateDown, Usage},
        latency::Latencies,
        status::Load,
        step::{Outcome, SampledTokens, Span, StepPlan, StepResult},
    },
};

use super::{
    adapters::{AdaptEffect, AdaptEvent, Adapters},
    alone::Alone,
    load, refuse,
    request::{Request, RequestKey, Times},
    settings::EngineSettings,
    transfers::{TransferEffect, TransferEvent, TransferSetup, Transfers},
};
use crate::{
    kv::{blocks::BlockPools, findable::Change, pool::BlockKey, tiers::Tiers},
    scheduler::{Counters, Owner, Part, Scheduler, Sequence, SequenceSpec, arena::Arena},
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
    /// KV blocks to or from another group.
    Transfer(TransferEvent),
    /// An adapter comes or goes.
    Adapt(AdaptEvent),
    /// Time has passed.
    Tick,
    /// Nothing new is taken from now on.
    Drain,
    /// What is under way goes on elsewhere.
    Move,
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
    /// KV blocks to or from another group. Orders to the ranks keep their place among the plans.
    Transfer(TransferEffect),
    /// An adapter comes or goes.
    Adapt(AdaptEffect),
    /// Count this.
    Observe(Observation),
    /// Tell whoever places requests which blocks came and went.
    Cached(Vec<Change>),
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
    Refused(ErrorKind),
    /// Another group was asked for KV, or this group's tiers were, and that is over.
    Fetched {
        /// Whether it was the tiers.
        from_tiers: bool,
        /// Tokens whose KV came.
        tokens: u32,
        /// Tokens whose KV was asked for.
        of: u32,
        /// Bytes that came, to all ranks together.
        bytes: u64,
        /// How long it took.
        time: Duration,
        /// Why not all came, if not.
        missing: Option<String>,
    },
    /// So many frames of KV were not taken.
    FramesDropped(u32),
}

/// One group's engine.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) settings: EngineSettings,
    pub(super) scheduler: Scheduler,
    pub(super) transfers: Transfers,
    pub(super) adapters: Adapters,
    /// Every sequence says which of these is its owner.
    pub(super) requests: Arena<Owner, Request>,
    pub(super) by_key: BTreeMap<RequestKey, Owner>,
    steps: u64,
    tokens: u64,
    pub(super) first_token: Latencies,
    pub(super) next_token: Latencies,
    /// Of KV from other groups: see [`Load::fetch_rate`].
    pub(super) fetch_rate: u32,
    /// Whether the books were checked since there was last work.
    checked: bool,
    /// Nothing new is taken.
    pub(super) draining: bool,
    pub(super) alone: Alone,
}

impl Engine {
    /// An engine over pools with these many blocks per KV group.
    pub fn new(settings: EngineSettings, blocks: &[u32]) -> Self {
        let limits = settings.scheduling(blocks);
        let pools = BlockPools::new(settings.limits.block_size, blocks);
        let mut pools = pools.with_windows(&settings.windows);
        // Without a prefix cache nobody finds what another has computed.
        if settings.limits.prefix_caching {
            pools = pools.telling();
        }
        let scheduler = Scheduler::new(limits, pools);
        let (requests, by_key) = (Arena::new(), BTreeMap::new());
        Self {
            settings,
            scheduler,
            transfers: Transfers::default(),
            adapters: Adapters::default(),
            requests,
            by_key,
            steps: 0,
            tokens: 0,
            first_token: Latencies::default(),
            next_token: Latencies::default(),
            fetch_rate: 0,
            checked: false,
            draining: false,
            alone: Alone::default(),
        }
    }

    /// The same that takes part in transfers of KV with other groups, and has its ranks keep what
    /// its device gives up, if its settings say so.
    #[must_use]
    pub fn with_transfers(mut self, setup: TransferSetup) -> Self {
        if let Some(tiers) = load::tiers(&self.settings, &setup) {
            self.scheduler = self.scheduler.with_tiers(tiers);
        }
        self.transfers.setup = Some(setup);
        self
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, now: Duration, event: EngineEvent) -> Vec<EngineEffect> {
        let mut effects = Vec::new();
        match event {
            EngineEvent::Submit(generate) if generate.alone => {
                self.submit_alone(now, *generate, &mut effects);
            }
            EngineEvent::Submit(generate) => self.submit(now, *generate, &mut effects),
            EngineEvent::Finish(key, finish) => self.finish(now, key, &finish, &mut effects),
            EngineEvent::Abort(key) => self.abort(key, &mut effects),
            EngineEvent::Result(result) => self.apply(now, result, &mut effects),
            EngineEvent::Transfer(event) => self.transfer(now, event, &mut effects),
            EngineEvent::Adapt(event) => self.adapt(event, &mut effects),
            EngineEvent::Tick => {
                self.expire_fetches(now, &mut effects);
                self.expire_prefills(now, &mut effects);
                self.expire(now, &mut effects);
                self.check_when_idle(&mut effects);
            }
            EngineEvent::Drain => self.draining = true,
            EngineEvent::Move => self.move_all(&mut effects),
            EngineEvent::Fail(error) => {
                self.fail_all(&error, &mut effects);
                self.fail_prefills(&error.message, &mut effects);
                return effects;
            }
        }
        self.begin_alone(now, &mut effects);
        self.go_on_adapting(now, &mut effects);
        self.load_waiting(now, &mut effects);
        while let Some(plan) = self.scheduler.compose(self.settings.endpoint.epoch) {
            self.keep_moved(&mut effects);
            self.preempted(&plan.preempted);
            self.planned(now, &plan, &mut effects);
            effects.push(EngineEffect::Plan(plan));
        }
        let changes = self.scheduler.changes();
        if !changes.is_empty() {
            effects.push(EngineEffect::Cached(changes));
        }
        effects
    }

    /// How busy it is. What only waits for the next step has its place: it is no queue.
    pub fn load(&self) -> Load {
        let (running, waiting) = self.scheduler.counts();
        let begins = self.scheduler.about_to_run();
        let usage = self.scheduler.usage();
        Load {
            running: running + begins,
            waiting: waiting - begins,
            blocks_used: usage.held,
            blocks_total: usage.total,
            steps: self.steps,
            tokens: self.tokens,
            first_token: self.first_token,
            next_token: self.next_token,
            fetch_rate: self.fetch_rate,
        }
    }

    /// Steps planned and not done: while there are some, progress is owed.
    pub fn steps_in_flight(&self) -> usize {
        self.scheduler.steps_in_flight()
    }

    /// Requests that it has taken and not ended, those of other groups included.
    pub fn open_requests(&self) -> usize {
        self.requests.len() + self.transfers.prefills.len()
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        self.scheduler.counters()
    }

    /// Names of all blocks whose contents can be found: what all [`EngineEffect::Cached`] so far
    /// come to, if there is a prefix cache.
    pub fn cached_blocks(&self) -> Vec<BlockKey> {
        self.scheduler.computed()
    }

    /// Checks its own bookkeeping; for idle moments and for tests.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.scheduler.check_integrity()?;
        let choices: usize = self.requests.iter().map(|(_, request)| request.choices.len()).sum();
        let choices = choices + self.transfers.sequences();
        let (sequences, requests) = (self.scheduler.live(), self.requests.len());
        if (sequences, requests) == (choices, self.by_key.len()) {
            return Ok(());
        }
        let keys = self.by_key.len();
        Err(format!("{choices} open choices of {requests} requests, {sequences} and {keys} known"))
    }

    /// Nobody waits for an idle engine, so it looks at its books: once after every time of work.
    fn check_when_idle(&mut self, effects: &mut Vec<EngineEffect>) {
        let idle = self.by_key.is_empty()
            && self.transfers.is_idle()
            && self.scheduler.steps_in_flight() == 0;
        if idle && !std::mem::replace(&mut self.checked, idle) {
            let held = self.scheduler.usage().held;
            let leaked = (held > 0).then(|| format!("{held} KV blocks are held by nobody"));
            let pinned = self.scheduler.tiers().map_or(0, Tiers::pinned);
            let pinned = (pinned > 0).then(|| format!("{pinned} slots are pinned by nobody"));
            let broken = self.check_integrity().err().or(leaked).or(pinned);
            effects.extend(broken.map(EngineEffect::Broken));
        }
        self.checked = idle;
    }

    pub(super) fn submit(
        &mut self,
        now: Duration,
        generate: Generate,
        effects: &mut Vec<EngineEffect>,
    ) {
        let key = RequestKey { request: generate.request, attempt: generate.attempt };
        let adapter = match self.admit(key, &generate) {
            Ok(adapter) => adapter,
            Err(error) => return self.refuse(key, error, effects),
        };
        if self.is_taken() && !generate.alone {
            return self.alone.keep(now, generate);
        }
        let request = Request::new(&generate, now, self.longest());
        let options = request.options();
        let owner = self.requests.insert(request);
        self.by_key.insert(key, owner);
        let own = || format!("{}/{}", generate.request, generate.attempt);
        let digest = generate.adapter.as_ref().map(|adapter| adapter.digest);
        let chain = self.chain(own, digest, generate.cache_salt.as_deref());
        let hashes = if self.is_hashed(&generate, chain) {
            generate.block_hashes.clone()
        } else {
            chain.hash(&generate.prompt, self.settings.limits.block_size as usize)
        };
        let mut first_choice = None;
        for choice in &generate.choices {
            let mut tokens = generate.prompt.clone();
            tokens.extend(&choice.output);
            let id = self.scheduler.add(SequenceSpec {
                owner,
                request: generate.request,
                tokens,
                prompt_len: generate.prompt.len() as u32,
                choice: choice.index,
                seed: generate.seed,
                options: options.clone(),
                adapter,
                traceparent: generate.traceparent.clone(),
                priority: generate.priority,
                chain,
                keeps_blocks: false,
                hashes: hashes.clone(),
                first_choice,
            });
            // Where the prompt's own logits are wanted, every choice computes them.
            if options.prompt_logprobs.is_none() {
                first_choice = first_choice.or(Some(id));
            }
            if let Some(request) = self.requests.get_mut(owner) {
                request.open(id, choice.index, choice.output.len() as u32);
            }
        }
        // Its other choices wait for the first one's prompt anyway.
        let Some(first) = first_choice else { return };
        if let Some(source) = &generate.kv_source {
            self.fetch(now, first, (&generate, source), effects);
        }
        if self.transfers.of(first).is_none() {
            self.bring_back(now, first, effects);
        }
    }

    fn transfer(&mut self, now: Duration, event: TransferEvent, effects: &mut Vec<EngineEffect>) {
        match event {
            TransferEvent::Report(report) => {
                self.imported(now, &report, effects);
                self.exported(&report, effects);
                self.transfers.closed(&report, effects);
            }
            TransferEvent::Answered(transfer, down) => {
                self.answered(now, transfer, &down, effects);
            }
            TransferEvent::Lost(transfer, why) => self.end_fetch(now, transfer, &why, effects),
            TransferEvent::Asked(prefill) => self.asked(now, *prefill, effects),
            TransferEvent::Gone(transfer) => self.end_prefill(transfer, effects),
        }
    }

    /// Where the hashes of a request's blocks begin. Without a prefix cache its choices still share
    /// the prompt, but no other request shares with them.
    pub(super) fn chain(
        &self,
        own: impl FnOnce() -> String,
        adapter: Option<Digest>,
        salt: Option<&str>,
    ) -> Chain {
        let own = (!self.settings.limits.prefix_caching).then(own);
        self.settings.hashing().chain(adapter, own.as_deref().or(salt))
    }

    /// Whether the gateway has named the prompt's blocks as this engine would.
    fn is_hashed(&self, generate: &Generate, chain: Chain) -> bool {
        generate.hash_block_size == self.settings.limits.block_size
            && generate.hash_seed == chain.seed()
    }

    fn planned(&mut self, now: Duration, plan: &StepPlan, effects: &mut Vec<EngineEffect>) {
        let tokens = plan.tokens();
        self.tokens += u64::from(tokens);
        effects.push(EngineEffect::Observe(Observation::Step { tokens }));
        for new in &plan.new {
            let Some(sequence) = self.scheduler.sequence(new.sequence) else { continue };
            let Some(request) = self.requests.get_mut(sequence.owner()) else { continue };
            let waited = request.start(new.sequence, now, sequence.cached_tokens());
            let started = waited.map(|waited| Observation::Started { waited });
            effects.extend(started.map(EngineEffect::Observe));
        }
    }

    pub(super) fn refuse(
        &self,
        key: RequestKey,
        error: PublicError,
        effects: &mut Vec<EngineEffect>,
    ) {
        let refused = Observation::Refused(error.kind);
        effects.push(EngineEffect::Send(key, GenerateDown::Refused(error)));
        effects.push(EngineEffect::Close(key));
        effects.push(EngineEffect::Observe(refused));
    }

    /// Lets a request in, with the adapter that it uses.
    pub(super) fn admit(
        &self,
        key: RequestKey,
        generate: &Generate,
    ) -> Result<Option<AdapterId>, PublicError> {
        if self.by_key.contains_key(&key) {
            let why = "this attempt is under way already";
            return Err(PublicError::new(ErrorKind::BadRequest, why));
        }
        if self.draining {
            let why = format!("{} takes no new requests", self.settings.endpoint);
            return Err(PublicError::new(ErrorKind::Unavailable, why));
        }
        // Who comes again has nowhere else to go.
        if self.is_taken() && !generate.alone && generate.attempt == 0 {
            let why = format!("{} runs one request alone", self.settings.endpoint);
            return Err(PublicError::new(ErrorKind::Unavailable, why));
        }
        let waiting = self.scheduler.counts().1 + self.alone.waiting() as u32;
        refuse::check(&self.settings, generate, waiting, self.longest())?;
        generate.adapter.as_ref().map(|adapter| self.adapters.find(adapter)).transpose()
    }

    /// Most positions of one sequence: the model's context, or what the blocks can hold.
    pub(super) fn longest(&self) -> u32 {
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
        let Ok(parts) = self.scheduler.complete(&result) else { return };
        self.steps += 1;
        // Most steps bring one chunk for each sequence, then a plan.
        effects.reserve(parts.len() + 2);
        let mut outcomes = result.outcomes.into_iter().peekable();
        for Part { id, span, .. } in parts {
            let outcome = outcomes.next_if(|outcome| outcome.sequence == id);
            // It may have ended while the step was under way.
            let Some(owner) = self.owner_of(id) else { continue };
            match outcome.map(|outcome| outcome.outcome) {
                None => {}
                Some(Outcome::Tokens(sampled)) => {
                    self.take_tokens(now, owner, (id, span), sampled, effects);
                }
                Some(Outcome::PromptLogprobs(logprobs)) => {
                    if let Some(request) = self.requests.get_mut(owner) {
                        request.add_prompt_logprobs(id, span.computed, logprobs);
                    }
                }
                Some(Outcome::Failed(why)) => self.fail_request(owner, id, why, effects),
                Some(Outcome::Embedding(vector)) => {
                    self.take_vector(now, owner, (id, vector), effects);
                }
            }
            self.end_if_prompt_only(now, id, effects);
            self.scheduler.settle(id);
        }
    }

    fn take_tokens(
        &mut self,
        now: Duration,
        owner: Owner,
        (id, span): (SequenceId, Span),
        sampled: SampledTokens,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(request) = self.requests.get_mut(owner) else { return };
        if !sampled.prompt_logprobs.is_empty() {
            request.add_prompt_logprobs(id, span.computed, sampled.prompt_logprobs);
        }
        let mut logprobs = sampled.logprobs.into_iter();
        for token in sampled.tokens {
            let Some(advance) = request.advance(id, now, token, logprobs.next()) else { return };
            effects.push(EngineEffect::Send(request.key, GenerateDown::Chunk(advance.chunk)));
            if let Some(end) = advance.ended {
                self.end_choice(owner, id, end, effects);
                return;
            }
            self.scheduler.append(id, token);
        }
    }

    fn take_vector(
        &mut self,
        now: Duration,
        owner: Owner,
        (id, vector): (SequenceId, Vec<f32>),
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(request) = self.requests.get_mut(owner) else { return };
        let Some(advance) = request.embed(id, now, vector) else { return };
        effects.push(EngineEffect::Send(request.key, GenerateDown::Chunk(advance.chunk)));
        if let Some(end) = advance.ended {
            self.end_choice(owner, id, end, effects);
        }
    }

    fn owner_of(&self, id: SequenceId) -> Option<Owner> {
        self.scheduler.sequence(id).map(Sequence::owner)
    }
}
