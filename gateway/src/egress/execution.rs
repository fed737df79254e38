//! Carries out what a stream's core decides: places attempts, opens them, reads, tells finishes.
//!
//! One [`Execution`] is one prompt. It is a plain stream of deltas that the answer polls, so there
//! is no task and no queue between the leader's window and the client's: a client that does not
//! read holds up the leader's outbox, and a client that goes away drops the attempt.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tracing::Instrument;
use troupe_runtime::{
    error::{ErrorKind, PublicError, chain},
    id::EndpointId,
    transport::LinkError,
    wire::{
        generate::{Generate, GenerateDown, KvSource},
        status::{EndpointInfo, Fingerprint},
    },
};

mod hedge;

use super::stream::{Decode, Delta, Effects, Event, StreamCore, Then};
use crate::{
    client::{Attempt, Fate},
    config::Resume,
    error::ApiError,
    flow::saturation::Begins,
    holding::{Holding, Wait},
    ingress::prepared::{Prepared, PreparedPrompt},
    metrics::Meter,
    model::Detokenizer,
    placement::{
        GoesOn, Placed, Query,
        directory::Directory,
        endpoint::Endpoint,
        prefix::namings::{Hashes, Named},
        underway::Underway,
    },
    suspects::{core::Verdict, watch::Deaths},
};

/// Where attempts can be made.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Who is ready.
    pub(crate) directory: Arc<Directory>,
    /// Where to wait for somebody who is.
    pub(crate) holding: Arc<Holding>,
    /// What processes have died of.
    pub(crate) deaths: Arc<Deaths>,
    /// Whether one of them was said to have a place for it.
    pub(crate) begins: Begins,
    /// Who may go on with what another began.
    pub(crate) resume: Resume,
    /// After which an attempt that has said nothing gets company; never if not given.
    pub(crate) hedge_after: Option<Duration>,
}

/// One prompt on its way.
struct Execution {
    places: Places,
    request: Arc<Prepared>,
    prompt: PreparedPrompt,
    /// The names of its blocks, once it is to be placed.
    hashes: Hashes,
    core: StreamCore<Decoder>,
    chosen: Option<Placed>,
    attempt: Option<Attempt>,
    /// When it was opened.
    opened: Instant,
    second: Option<hedge::Second>,
    /// Whether there was a second one.
    hedged: bool,
    /// The endpoint that sent it elsewhere, and has what it has computed.
    left: Option<Arc<Endpoint>>,
    /// Where the last attempt ended, if not in order.
    ended_at: Option<EndpointId>,
    /// Nothing may run beside it.
    alone: bool,
    /// Where it was sent since.
    alone_at: Vec<EndpointId>,
    /// Connections over which an attempt was lost: of no use until they are made anew.
    broken: Vec<Weak<Endpoint>>,
    ready: VecDeque<Delta>,
    then: Then,
    meter: Meter,
}

/// The deltas of one prompt, until every choice has ended or the first error.
pub(crate) fn execute(
    places: Places,
    request: Arc<Prepared>,
    prompt: PreparedPrompt,
    meter: Meter,
) -> impl Stream<Item = Result<Delta, ApiError>> + Send {
    let decoder = |_| Decoder(Some(request.model.detokenizer(request.text, &prompt.tokens)));
    let decoders = (0..request.n).map(decoder);
    let resumable = places.resume != Resume::Off;
    let core = StreamCore::new(request.stream_options(&prompt, resumable), decoders);
    let (ready, then) = (VecDeque::new(), Then::Place);
    let (hashes, chosen, attempt, left) = (Hashes::NONE, None, None, None);
    let execution = Execution {
        places,
        request,
        prompt,
        hashes,
        core,
        chosen,
        attempt,
        opened: Instant::now(),
        second: None,
        hedged: false,
        left,
        ended_at: None,
        alone: false,
        alone_at: Vec::new(),
        broken: Vec::new(),
        ready,
        then,
        meter,
    };
    // A body is polled outside the handler, and so outside the handler's span.
    let span = tracing::Span::current();
    stream::unfold(Some(execution), move |execution| {
        let span = span.clone();
        async move {
            let mut execution = execution?;
            match execution.next().instrument(span).await {
                Some(Ok(delta)) => Some((Ok(delta), Some(execution))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        }
    })
}

// === impl Places ===

impl Places {
    /// Who would take the next attempt. An output that goes on does so where it gets the same
    /// tokens for sure, and only then, if it may, where the same model is served otherwise.
    fn choose(
        &self,
        request: &Prepared,
        (prompt, hashes): (&PreparedPrompt, &Hashes),
        tried: &BTreeSet<EndpointId>,
        origin: Option<&Fingerprint>,
    ) -> Option<Placed> {
        let place = |goes_on| {
            self.directory.place(&Query {
                model: &request.served_name,
                tokenizer: request.model.tokenizer_digest(),
                exclude: tried,
                goes_on,
                name: &request.name,
                request: prompt.request,
                tokens: prompt.tokens.len() as u32,
                hashes,
                scope: request.scope.as_ref(),
                hints: &request.hints,
                at_once: self.begins == Begins::AtOnce,
                now: self.directory.now(),
            })
        };
        let Some(origin) = origin else { return place(None) };
        let exact = place(Some(GoesOn::Exactly(origin)));
        match self.resume {
            Resume::Any => exact.or_else(|| place(Some(GoesOn::WithModel(origin.model)))),
            Resume::Exact | Resume::Off => exact,
        }
    }
}

// === impl Execution ===

impl Execution {
    async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Some(Ok(delta));
            }
            let event = match std::mem::take(&mut self.then) {
                Then::Read => self.read().await,
                Then::Place => self.place().await,
                Then::Hold(why) => self.hold(why).await,
                Then::Open => self.open().await,
                Then::Done => {
                    self.attempt.take().into_iter().for_each(Attempt::close);
                    self.then = Then::Done;
                    return None;
                }
                Then::Fail(error) => {
                    self.attempt = None;
                    self.meter.failed();
                    return Some(Err(error.into()));
                }
            };
            let effects = self.core.handle(Instant::now(), event);
            self.carry_out(effects).await;
        }
    }

    async fn carry_out(&mut self, effects: Effects) {
        for finish in effects.finishes {
            // If the leader cannot be told, it notices the end of the conversation instead.
            if let Some(attempt) = &mut self.attempt
                && let Err(error) = attempt.finish(finish).await
            {
                tracing::debug!(error = chain(&error), "tell a finish");
            }
        }
        let now = Instant::now();
        for delta in &effects.deltas {
            self.meter.delta(now, delta);
            if let Some(attempt) = &mut self.attempt {
                attempt.tokens(now, delta.tokens.len());
            }
        }
        self.ready.extend(effects.deltas);
        self.then = effects.then;
    }

    async fn read(&mut self) -> Event {
        let heard = self.hear().await;
        let Some(attempt) = &mut self.attempt else {
            return Event::Broken("there is no attempt".into());
        };
        match heard {
            Some(Ok(down)) => {
                match &down {
                    GenerateDown::Failed(error) => {
                        if error.kind == ErrorKind::Internal {
                            attempt.note(Fate::Broke);
                        }
                        // Its group has ended. Nobody else is to be sent there meanwhile: if its
                        // host hears nothing, the connection may look well for a while.
                        if error.kind == ErrorKind::Unavailable {
                            attempt.endpoint().connection.close("its group has ended");
                        }
                        self.ended_at = Some(attempt.endpoint().info.endpoint.clone());
                    }
                    GenerateDown::Refused(_) => attempt.note(Fate::Refused),
                    GenerateDown::Moved(_) => self.left = Some(Arc::clone(attempt.endpoint())),
                    GenerateDown::Chunk(_) => {}
                }
                Event::Down(down)
            }
            Some(Err(error)) => {
                attempt.note(Fate::Broke);
                self.ended_at = Some(attempt.endpoint().info.endpoint.clone());
                self.broken.push(Arc::downgrade(attempt.endpoint()));
                Event::Broken(chain(&error))
            }
            None => {
                attempt.note(Fate::Late);
                Event::Tick
            }
        }
    }

    /// Where to; nothing is sent yet.
    async fn place(&mut self) -> Event {
        self.attempt = None;
        if let Err(error) = self.judge().await {
            return Event::Guilty(error);
        }
        self.hash().await;
        let (tried, origin) = (self.excluded(), self.core.origin());
        let prompt = (&self.prompt, &self.hashes);
        let placed = self.places.choose(&self.request, prompt, &tried, origin);
        if let Some(placed) = placed {
            return self.placed(placed);
        }
        let message = format!("No endpoint of the model `{}` is ready.", self.request.served_name);
        Event::Nowhere(PublicError::new(ErrorKind::Unavailable, message))
    }

    /// Looks at what the attempts that are over may have done where they were.
    async fn judge(&mut self) -> Result<(), PublicError> {
        let deaths = Arc::clone(&self.places.deaths);
        // After the first there is no hurry; after two it matters whether this request was why.
        if let Some(ended_at) = self.ended_at.take()
            && self.core.failures() >= 2
        {
            deaths.word_of(&ended_at).await;
        }
        match deaths.verdict(self.prompt.request, &self.alone_at) {
            Verdict::Innocent => {}
            Verdict::Suspect => {
                if !std::mem::replace(&mut self.alone, true) {
                    tracing::warn!("processes died of steps with this request: it goes on alone");
                }
            }
            Verdict::Guilty => {
                let message = "The request has ended every process that executed it, the last time \
                               alone. It is not tried again.";
                return Err(PublicError::new(ErrorKind::Internal, message));
            }
        }
        Ok(())
    }

    /// Names the prompt's blocks as those do who might take it: once for each way.
    async fn hash(&mut self) {
        let directory = &self.places.directory;
        let wanted = directory.namings(&self.request.served_name);
        let adapter = self.request.hints.adapter.as_ref().map(|adapter| adapter.digest);
        let by = (adapter, self.request.cache_salt.as_deref());
        self.hashes.complete(directory.prefixes(), wanted, &self.prompt.tokens, by).await;
    }

    /// Waits for somebody to come up, who may be an endpoint that was not there before.
    async fn hold(&mut self, why: PublicError) -> Event {
        let (places, request) = (self.places.clone(), Arc::clone(&self.request));
        let origin = self.core.origin().cloned();
        let wait = Wait {
            model: Some(&request.served_name),
            bytes: size_of_val::<[u32]>(&self.prompt.tokens),
            deadline: self.core.deadline(),
        };
        let (tried, broken) = (self.core.tried().clone(), self.broken.clone());
        let prompt = (&self.prompt, &self.hashes);
        let ready = || {
            let tried = excluded(&places.directory, &tried, &broken);
            places.choose(&request, prompt, &tried, origin.as_ref())
        };
        match places.holding.until(wait, ready).await {
            Ok(placed) => self.placed(placed),
            Err(unheld) => Event::Unheld(unheld.told(&request.served_name).unwrap_or(why)),
        }
    }

    /// Endpoints that the next attempt may not be made at.
    fn excluded(&self) -> BTreeSet<EndpointId> {
        excluded(&self.places.directory, self.core.tried(), &self.broken)
    }

    fn placed(&mut self, placed: Placed) -> Event {
        let info = &placed.endpoint.info;
        let (id, fingerprint) = (&info.endpoint, &info.fingerprint);
        if self.core.origin().is_some() {
            tracing::info!(endpoint = %id, attempt = self.core.attempt(), "resume a stream");
        }
        if placed.misses_prefill {
            self.places.holding.want_prefill(&id.group);
        }
        placed.decision.trace().in_scope(|| tracing::debug!(endpoint = %id, "placed"));
        if let Some(token) = &placed.token {
            // Another prompt of the request may have said one before: any of them will do.
            let _ = self.request.session_token.set(token.clone());
        }
        let event = Event::Placed(id.clone(), fingerprint.clone());
        self.chosen = Some(placed);
        event
    }

    async fn open(&mut self) -> Event {
        let Some(placed) = self.chosen.take() else {
            return Event::Broken("no endpoint was chosen".into());
        };
        match self.attempt_at(&placed).await {
            Ok(attempt) => {
                (self.attempt, self.opened) = (Some(attempt), Instant::now());
                Event::Opened
            }
            Err(error) => {
                self.broken.push(Arc::downgrade(&placed.endpoint));
                Event::Broken(chain(&error))
            }
        }
    }

    async fn attempt_at(&mut self, placed: &Placed) -> Result<Attempt, LinkError> {
        // Who was waited for may name blocks as nobody did before.
        self.hash().await;
        let directory = &self.places.directory;
        // So that who asks the same at the same time is sent the same way.
        for endpoint in [Some(&placed.endpoint), placed.prefill.as_ref()].into_iter().flatten() {
            if let Some(named) = self.hashes.named(endpoint.cached.naming()) {
                endpoint.cached.sent(directory.now(), &named.hashes);
            }
        }
        let endpoint = &placed.endpoint;
        let named = self.hashes.named(endpoint.cached.naming()).cloned();
        let left = self.left.take();
        let alike = |left: &&Arc<Endpoint>| left.info.fingerprint == endpoint.info.fingerprint;
        let left = left.as_ref().filter(alike).map(|left| (&**left, Some(self.computed())));
        let peer = || placed.peer.as_ref().map(|peer| (&*peer.endpoint, Some(peer.tokens)));
        let prefill = || placed.prefill.as_deref().map(|prefill| (prefill, None));
        let source = left.or_else(prefill).or_else(peer).filter(|_| !self.alone);
        let generate = self.generate(&endpoint.info, named, source);
        let max_tokens = self.prompt.options.max_tokens;
        let choices = self.request.n;
        let underway = Underway::begin(directory, placed, choices, max_tokens, Instant::now());
        if self.alone {
            self.alone_at.push(endpoint.info.endpoint.clone());
        }
        let opened = Attempt::open(endpoint, generate, underway).await;
        opened.inspect_err(|_| endpoint.broke(directory.now()))
    }

    /// Tokens whose KV an endpoint has that told all of these.
    fn computed(&self) -> u32 {
        let told = self.core.choices_so_far().first().map_or(0, |choice| choice.output.len());
        (self.prompt.tokens.len() + told) as u32
    }

    fn generate(
        &self,
        info: &EndpointInfo,
        named: Option<Named>,
        source: Option<(&Endpoint, Option<u32>)>,
    ) -> Generate {
        let (block_hashes, hash_block_size, hash_seed) =
            named.map_or((Vec::new(), 0, 0), |n| (n.hashes.to_vec(), n.block_size, n.seed));
        let left = self.core.deadline().saturating_duration_since(Instant::now());
        Generate {
            request: self.prompt.request,
            attempt: self.core.attempt(),
            alone: self.alone,
            endpoint: info.endpoint.clone(),
            tenant: self.request.tenant.to_string(),
            priority: self.request.urgency(),
            time_left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            prompt: self.prompt.tokens.to_vec(),
            block_hashes,
            hash_block_size,
            hash_seed,
            adapter: self.request.hints.adapter.clone(),
            cache_salt: self.request.cache_salt.clone(),
            output: self.prompt.output,
            options: self.prompt.options.clone(),
            seed: self.prompt.seed,
            choices: self.core.choices_so_far(),
            kv_source: source.map(|(endpoint, cached)| KvSource {
                endpoint: endpoint.info.endpoint.clone(),
                address: endpoint.address.clone(),
                cached,
            }),
            traceparent: self.request.traceparent.clone(),
            model: info.fingerprint.model,
            tokenizer: info.fingerprint.tokenizer,
        }
    }
}

/// Endpoints that were tried, and those whose connection is the very one over which an attempt was
/// lost: the table may not know yet that it is.
fn excluded(
    directory: &Directory,
    tried: &BTreeSet<EndpointId>,
    broken: &[Weak<Endpoint>],
) -> BTreeSet<EndpointId> {
    // Most requests have lost nothing, and need not look at every endpoint to find that out.
    if broken.is_empty() {
        return tried.clone();
    }
    let table = directory.table();
    let is_broken = |endpoint: &&Arc<Endpoint>| {
        broken.iter().any(|broken| broken.as_ptr() == Arc::as_ptr(endpoint))
    };
    let broken = table.values().filter(is_broken).map(|broken| broken.info.endpoint.clone());
    tried.iter().cloned().chain(broken).collect()
}

/// The runtime's detokenizer ends by being used up; a choice's decoder stays where it is.
struct Decoder(Option<Detokenizer>);

impl Decode for Decoder {
    fn push(&mut self, token: u32) -> String {
        self.0.as_mut().map(|stream| stream.push(token).text).unwrap_or_default()
    }

    fn finish(&mut self) -> String {
        self.0.take().map(|stream| stream.finish().text).unwrap_or_default()
    }
}
