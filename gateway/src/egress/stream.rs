//! The core of one prompt's stream: what each event means, and what is to be done about it.
//!
//! It takes exactly the next position of every choice: lower ones are repeats and dropped, a gap
//! breaks the attempt. An attempt that fails is made again at another endpoint. If tokens were
//! delivered by then the stream is *resumed*: the next attempt carries them
//! ([`StreamCore::choices_so_far`]), and because random numbers are keyed by seed, choice and
//! position, it goes on with the very token that the first would have given, wherever the execution
//! fingerprints are equal ([`Fidelity`]). Text, stop strings and parsers never notice: their state
//! is here. It may only be resumed where the same model is served ([`StreamCore::origin`]).
//!
//! No clock, no network, no randomness: `handle(now, event)` says what to do.

use std::collections::BTreeSet;

use tokio::time::Instant;
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::{EndpointId, RequestId},
    wire::{
        generate::{
            Choice, Chunk, Finish, FinishReason, Finished, GenerateDown, TokenLogprobs, Usage,
        },
        status::Fingerprint,
    },
};

use super::stop::{StopRules, StopScanner};
use crate::openai::common::StopReason;

/// Most attempts per prompt that cost something: the first, and three endpoints more. A cluster
/// that refuses four times is full, and says so. An endpoint that says it is not, or no longer, the
/// one to ask (it drains, it was formed anew) has cost nothing: as many as there are may say that.
/// One that is lost is another matter.
pub(crate) const MAX_ATTEMPTS: u32 = 4;
/// Most endpoints that may be lost one after another before they bring anything. Mostly they are
/// lost for reasons of their own while the request waits in their queue; a request that they die of
/// is found by `suspects`, and this is for what cannot be seen there.
pub(crate) const MAX_LOST_IN_VAIN: u32 = 8;
/// Most that may be lost in all: each next one computes again what was told, and a cluster that
/// loses so many within one request does little else.
pub(crate) const MAX_LOST: u32 = 64;

/// Turns one output's tokens into text as they come.
pub(crate) trait Decode: Send {
    /// The text that this token completes; often none for a part of a character.
    fn push(&mut self, token: u32) -> String;
    /// The text of what is left at the end.
    fn finish(&mut self) -> String;
}

/// What is the same for all choices.
#[derive(Clone, Debug)]
pub(crate) struct StreamOptions {
    /// The request, as the leader knows it.
    pub(crate) request: RequestId,
    /// Tokens in the prompt.
    pub(crate) prompt_tokens: u32,
    /// Texts that end an output.
    pub(crate) stop: StopRules,
    /// Tokens that end an output; their text is not part of it.
    pub(crate) end_tokens: BTreeSet<u32>,
    /// Only the prompt is wanted (`max_tokens` 0): a token that an engine makes all the same is
    /// dropped.
    pub(crate) prompt_only: bool,
    /// When the answer is worthless.
    pub(crate) deadline: Instant,
    /// Whether it may go on elsewhere once tokens were delivered.
    pub(crate) resumable: bool,
}

/// One prompt's stream.
pub(crate) struct StreamCore<D> {
    options: StreamOptions,
    attempt: u32,
    /// Attempts that cost something and whose endpoint is there still.
    failures: u32,
    /// Those whose endpoint was lost.
    losses: u32,
    /// The last of them, since one brought something.
    in_vain: u32,
    endpoint: Option<EndpointId>,
    fingerprint: Option<Fingerprint>,
    /// Of the endpoint that delivered the first token.
    origin: Option<Fingerprint>,
    /// To be told with the next delta.
    resumed: Option<Fidelity>,
    tried: BTreeSet<EndpointId>,
    /// Those of them that may be asked again if there is nobody else: they were lost, or unwilling
    /// for the first time.
    lost: BTreeSet<EndpointId>,
    /// Those that were unwilling.
    unwilling: BTreeSet<EndpointId>,
    last_refusal: Option<PublicError>,
    choices: Vec<ChoiceState<D>>,
}

struct ChoiceState<D> {
    decoder: D,
    scanner: StopScanner,
    output: Vec<u32>,
    cached_tokens: u32,
    begun: bool,
    over: bool,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The attempt that was asked for is to be made at this endpoint, which executes like this.
    Placed(EndpointId, Fingerprint),
    /// The endpoint was handed the request.
    Opened,
    /// It goes on with this endpoint, which executes like this and was handed the same attempt.
    Instead(EndpointId, Fingerprint),
    /// No endpoint is left that could take it.
    Nowhere(PublicError),
    /// Nor is there one to wait for, or none came.
    Unheld(PublicError),
    /// Whoever executes it dies of it.
    Guilty(PublicError),
    /// The leader said something.
    Down(GenerateDown),
    /// The attempt's connection or conversation is over; why, for the log.
    Broken(String),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Tell the client, in this order.
    pub(crate) deltas: Vec<Delta>,
    /// Tell the leader: these choices are over.
    pub(crate) finishes: Vec<Finish>,
    /// And then.
    pub(crate) then: Then,
}

/// How to go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Then {
    /// Wait for the leader, at most until the deadline.
    #[default]
    Read,
    /// Choose an endpoint that is not among [`StreamCore::tried`].
    Place,
    /// Wait for an endpoint that is not among them; if none is to be waited for, this is why.
    Hold(PublicError),
    /// Hand the request to the chosen endpoint, as attempt [`StreamCore::attempt`].
    Open,
    /// Every choice is over.
    Done,
    /// The stream is over without an end.
    Fail(PublicError),
}

/// What one event adds to one choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    /// Which choice.
    pub(crate) choice: u32,
    /// Shown text.
    pub(crate) text: String,
    /// Output tokens, also those whose text is still held back.
    pub(crate) tokens: Vec<u32>,
    /// One per token, if asked for.
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// The prompt's, in the choice's first delta, if asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    /// The prompt's vector, if that was asked for.
    pub(crate) embedding: Vec<f32>,
    /// In the choice's last delta.
    pub(crate) end: Option<End>,
    /// In the first delta after the stream went on at another endpoint.
    pub(crate) resumed: Option<Fidelity>,
}

/// How surely a resumed stream has the tokens that it would have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fidelity {
    /// The execution fingerprints are equal and results do not depend on the batch: to the bit.
    Exact,
    /// The model is the same, but not how it is executed.
    Approximate,
}

/// Why and how a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) usage: Usage,
}

// === impl StreamCore ===

impl<D: Decode> StreamCore<D> {
    /// A stream whose first attempt is to be placed. One decoder per choice.
    pub(crate) fn new(options: StreamOptions, decoders: impl IntoIterator<Item = D>) -> Self {
        let choices = decoders.into_iter().map(ChoiceState::new).collect();
        Self {
            options,
            attempt: 0,
            failures: 0,
            losses: 0,
            in_vain: 0,
            endpoint: None,
            fingerprint: None,
            origin: None,
            resumed: None,
            tried: BTreeSet::new(),
            lost: BTreeSet::new(),
            unwilling: BTreeSet::new(),
            last_refusal: None,
            choices,
        }
    }

    /// Which attempt is to be made or under way.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How many attempts ended otherwise than in order.
    pub(crate) fn failures(&self) -> u32 {
        self.failures + self.losses
    }

    /// Endpoints that an attempt may not be made at.
    pub(crate) fn tried(&self) -> &BTreeSet<EndpointId> {
        &self.tried
    }

    /// How the tokens that were delivered so far were made; none if there are none.
    pub(crate) fn origin(&self) -> Option<&Fingerprint> {
        self.origin.as_ref()
    }

    /// When to send [`Event::Tick`] if nothing else happens.
    pub(crate) fn deadline(&self) -> Instant {
        self.options.deadline
    }

    /// The open choices with what was delivered of them, as an attempt needs them.
    pub(crate) fn choices_so_far(&self) -> Vec<Choice> {
        let open = (0..).zip(&self.choices).filter(|(_, choice)| !choice.over);
        open.map(|(index, choice)| Choice { index, output: choice.output.clone() }).collect()
    }

    /// What the event means.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Effects {
        if now >= self.options.deadline {
            let kind = ErrorKind::DeadlineExceeded;
            let message = "The request took longer than the time it was given.";
            return Effects::then(Then::Fail(PublicError::new(kind, message)));
        }
        match event {
            Event::Opened | Event::Tick => Effects::default(),
            Event::Placed(endpoint, fingerprint) => {
                self.resumed =
                    self.origin.as_ref().map(|origin| Fidelity::of(origin, &fingerprint));
                (self.endpoint, self.fingerprint) = (Some(endpoint), Some(fingerprint));
                Effects::then(Then::Open)
            }
            Event::Instead(endpoint, fingerprint) => {
                self.tried.extend(self.endpoint.take());
                (self.endpoint, self.fingerprint) = (Some(endpoint), Some(fingerprint));
                Effects::default()
            }
            Event::Nowhere(error) => {
                let error = self.last_refusal.take().unwrap_or(error);
                // Where all are full, waiting for another one would only make the queue longer.
                match error.kind {
                    ErrorKind::Unavailable => self.hold(error),
                    _ => Effects::then(Then::Fail(error)),
                }
            }
            Event::Unheld(error) | Event::Guilty(error) => Effects::then(Then::Fail(error)),
            Event::Down(GenerateDown::Chunk(chunk)) => self.chunk(chunk),
            Event::Down(GenerateDown::Refused(error)) if error.kind == ErrorKind::Unavailable => {
                self.unwilling();
                self.elsewhere(error)
            }
            Event::Down(GenerateDown::Moved(error)) if self.may_go_on() => {
                self.unwilling();
                self.elsewhere(error)
            }
            Event::Down(
                GenerateDown::Refused(error)
                | GenerateDown::Failed(error)
                | GenerateDown::Moved(error),
            ) => self.attempt_over(error),
            Event::Broken(why) => {
                tracing::info!(request = %self.options.request, why, "attempt broke");
                let message = "The engine that ran the request is gone.";
                self.lost.extend(self.endpoint.clone());
                self.attempt_over(PublicError::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// The endpoint has something else to do, which may be over when it is asked again; one that
    /// goes away for good is then found to be gone.
    fn unwilling(&mut self) {
        if let Some(endpoint) = &self.endpoint
            && self.unwilling.insert(endpoint.clone())
        {
            self.lost.insert(endpoint.clone());
        }
    }

    /// Who was out of reach may be back before anybody else comes: it is waited for as well. That
    /// this does not go on for ever is seen to by the number of attempts.
    fn hold(&mut self, error: PublicError) -> Effects {
        for lost in std::mem::take(&mut self.lost) {
            self.tried.remove(&lost);
        }
        Effects::then(Then::Hold(error))
    }

    /// Elsewhere, if that can help: with what was told to the client by then.
    fn attempt_over(&mut self, error: PublicError) -> Effects {
        let elsewhere = !matches!(error.kind, ErrorKind::BadRequest | ErrorKind::DeadlineExceeded);
        if error.kind == ErrorKind::Unavailable {
            self.losses += 1;
            self.in_vain += 1;
        } else {
            self.failures += 1;
        }
        let last = self.failures >= MAX_ATTEMPTS
            || self.in_vain >= MAX_LOST_IN_VAIN
            || self.losses >= MAX_LOST;
        if !elsewhere || !self.may_go_on() || last {
            return Effects::then(Then::Fail(error));
        }
        self.elsewhere(error)
    }

    /// Whether another endpoint may take it, as far as was told to the client.
    fn may_go_on(&self) -> bool {
        self.options.resumable || self.is_untold()
    }

    /// Whether nothing was told to the client.
    pub(crate) fn is_untold(&self) -> bool {
        self.choices.iter().all(|choice| !choice.begun)
    }

    /// The next attempt. No endpoint is tried twice but one that was lost, and that only when
    /// nobody else is left; so there are not more than endpoints and [`MAX_LOST`].
    fn elsewhere(&mut self, error: PublicError) -> Effects {
        self.attempt += 1;
        self.tried.extend(self.endpoint.take());
        self.last_refusal = Some(error);
        Effects::then(Then::Place)
    }

    fn chunk(&mut self, chunk: Chunk) -> Effects {
        if chunk.request != self.options.request || chunk.attempt != self.attempt {
            return Effects::default();
        }
        let Some(choice) = self.choices.get_mut(chunk.choice as usize) else {
            return self.protocol_broken("a chunk of a choice that was not asked for");
        };
        let next = choice.output.len() as u32;
        if choice.over || chunk.position < next {
            return Effects::default();
        }
        if chunk.position > next {
            return self.protocol_broken("a chunk is missing");
        }
        if chunk.finish.as_ref().is_some_and(|finish| finish.reason == FinishReason::Error) {
            let message = "The engine could not finish the request.";
            return Effects::then(Then::Fail(PublicError::new(ErrorKind::Internal, message)));
        }
        let mut effects = Effects::default();
        let index = chunk.choice;
        let told_by_leader = chunk.finish.is_some();
        if !chunk.tokens.is_empty() {
            self.in_vain = 0;
        }
        let mut delta = choice.take(&self.options, chunk);
        delta.resumed = self.resumed.take();
        if self.origin.is_none() {
            self.origin.clone_from(&self.fingerprint);
        }
        if let Some(end) = &delta.end
            && !told_by_leader
        {
            let tokens_kept = end.usage.completion_tokens;
            effects.finishes.push(Finish { choice: index, reason: end.reason, tokens_kept });
        }
        effects.deltas.push(delta);
        if self.choices.iter().all(|choice| choice.over) {
            effects.then = Then::Done;
        }
        effects
    }

    fn protocol_broken(&mut self, why: &str) -> Effects {
        tracing::warn!(
            request = %self.options.request,
            endpoint = self.endpoint.as_ref().map(tracing::field::display),
            why,
            "attempt breaks the protocol"
        );
        let message = "The engine lost a part of the output.";
        self.attempt_over(PublicError::new(ErrorKind::Internal, message))
    }
}

// === impl ChoiceState ===

impl<D: Decode> ChoiceState<D> {
    fn new(decoder: D) -> Self {
        let scanner = StopScanner::default();
        let output = Vec::new();
        Self { decoder, scanner, output, cached_tokens: 0, begun: false, over: false }
    }

    /// Applies the next chunk.
    fn take(&mut self, options: &StreamOptions, chunk: Chunk) -> Delta {
        let Chunk { choice, tokens, logprobs, mut prompt_logprobs, embedding, finish, .. } = chunk;
        // What a later attempt finds cached or computes of the prompt again is its own affair.
        if std::mem::replace(&mut self.begun, true) {
            prompt_logprobs.clear();
        } else {
            self.cached_tokens = chunk.cached_tokens;
        }
        let mut delta = Delta { choice, prompt_logprobs, embedding, ..Delta::default() };
        if options.prompt_only {
            delta.end = Some(self.end(options, FinishReason::Length, None));
            return delta;
        }
        let mut logprobs = logprobs.into_iter();
        let last = tokens.len().saturating_sub(1);
        for (at, token) in tokens.into_iter().enumerate() {
            self.output.push(token);
            delta.tokens.push(token);
            delta.logprobs.extend(logprobs.next());
            let ends_here = at == last && stopped(&finish) && options.end_tokens.contains(&token);
            if ends_here && !options.stop.include {
                continue;
            }
            let piece = self.decoder.push(token);
            if let Some(stop) = self.scan(options, &piece, &mut delta.text) {
                delta.end = Some(self.end(options, FinishReason::Stop, Some(stop)));
                return delta;
            }
        }
        if let Some(finish) = finish {
            self.finish(options, finish, &mut delta);
        }
        delta
    }

    /// The leader's end: what was held back comes out, and may itself hold a stop string.
    fn finish(&mut self, options: &StreamOptions, finish: Finished, delta: &mut Delta) {
        let rest = self.decoder.finish();
        if let Some(stop) = self.scan(options, &rest, &mut delta.text) {
            delta.end = Some(self.end(options, FinishReason::Stop, Some(stop)));
            return;
        }
        delta.text.push_str(&self.scanner.finish());
        let stop_reason = finish.stop_token.map(StopReason::Token);
        delta.end = Some(self.end(options, finish.reason, stop_reason));
    }

    fn scan(
        &mut self,
        options: &StreamOptions,
        piece: &str,
        shown: &mut String,
    ) -> Option<StopReason> {
        let scanned = self.scanner.push(&options.stop, piece, self.output.len() as u32);
        shown.push_str(&scanned.text);
        scanned.stop.map(|index| StopReason::Text(options.stop.strings[index].clone()))
    }

    fn end(
        &mut self,
        options: &StreamOptions,
        reason: FinishReason,
        stop_reason: Option<StopReason>,
    ) -> End {
        self.over = true;
        let usage = Usage {
            prompt_tokens: options.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.output.len() as u32,
        };
        End { reason, stop_reason, usage }
    }
}

fn stopped(finish: &Option<Finished>) -> bool {
    finish.as_ref().is_some_and(|finish| finish.reason == FinishReason::Stop)
}

// === impl Effects, Delta ===

impl Effects {
    fn then(then: Then) -> Self {
        Self { then, ..Self::default() }
    }
}

impl Delta {
    /// Joins what came later to what came before.
    pub(crate) fn append(&mut self, later: Self) {
        self.text.push_str(&later.text);
        self.tokens.extend(later.tokens);
        self.logprobs.extend(later.logprobs);
        self.prompt_logprobs.extend(later.prompt_logprobs);
        self.embedding.extend(later.embedding);
        self.end = later.end.or(self.end.take());
        self.resumed = self.resumed.max(later.resumed);
    }
}

// === impl Fidelity ===

impl Fidelity {
    /// Of tokens made like `this`, to others made like `that`.
    fn of(this: &Fingerprint, that: &Fingerprint) -> Self {
        if this == that && this.batch_invariant { Self::Exact } else { Self::Approximate }
    }

    /// As headers and metrics name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
