//! One prompt's stream at a simulated gateway. Its text is one character for each token, so that
//! stop strings are found as they are in real text.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use troupe_runtime::{
    error::PublicError,
    id::{EndpointId, RequestId},
    wire::{
        generate::{Choice, Finish, FinishReason, GenerateDown, Usage},
        status::Fingerprint,
    },
};

use crate::egress::{
    stop::StopRules,
    stream::{Decode, Effects, Event, StreamCore, StreamOptions, Then},
};

/// See the file.
pub struct SimulatedStream {
    core: StreamCore<Characters>,
    born: Instant,
}

/// What happened.
#[derive(Debug)]
pub enum Happened {
    /// The attempt that was asked for is to be made at this endpoint, which executes like this.
    Placed(EndpointId, Fingerprint),
    /// The endpoint was handed the request.
    Opened,
    /// No endpoint is left that could take it.
    Nowhere(PublicError),
    /// Nor is there one to wait for, or none came.
    Unheld(PublicError),
    /// The leader said something.
    Down(GenerateDown),
    /// The attempt's connection or conversation is over.
    Broken(String),
    /// Time passed.
    Tick,
}

/// What the client is told of one choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which choice.
    pub choice: u32,
    /// Its next tokens.
    pub tokens: Vec<u32>,
    /// Why it ended, and what it cost, if these were the last.
    pub end: Option<SimulatedEnd>,
}

/// The end of a choice.
pub type SimulatedEnd = (FinishReason, Usage);

/// How to go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Wants {
    /// Wait for the leader, at most until the deadline.
    Read,
    /// Choose an endpoint.
    Place,
    /// Wait for an endpoint; if none is to be waited for, this is why.
    Hold(PublicError),
    /// Hand the request to the endpoint that was chosen.
    Open,
    /// Every choice is over.
    Done,
    /// The stream is over without an end.
    Fail(PublicError),
}

/// A character for each token.
struct Characters;

/// The character of token 0; letters of no alphabet, one after the other.
const FIRST: u32 = 0x4e00;

// === impl SimulatedStream ===

impl SimulatedStream {
    /// A stream of so many choices whose first attempt is to be placed. It ends at `deadline`, and
    /// a choice ends when its text has one of these in it.
    pub fn new(
        request: RequestId,
        (prompt_tokens, choices): (u32, u32),
        stop: Vec<String>,
        deadline: Duration,
    ) -> Self {
        let born = Instant::now();
        let options = StreamOptions {
            request,
            prompt_tokens,
            stop: StopRules { strings: stop, include: false, min_tokens: 0 },
            end_tokens: BTreeSet::new(),
            prompt_only: false,
            deadline: born + deadline,
            resumable: true,
        };
        let decoders = (0..choices).map(|_| Characters);
        Self { core: StreamCore::new(options, decoders), born }
    }

    /// The text of a token.
    pub fn text(token: u32) -> String {
        char::from_u32(FIRST + token).unwrap_or('?').to_string()
    }

    /// Which attempt is to be made or under way.
    pub fn attempt(&self) -> u32 {
        self.core.attempt()
    }

    /// Endpoints that an attempt may not be made at.
    pub fn tried(&self) -> &BTreeSet<EndpointId> {
        self.core.tried()
    }

    /// How the tokens that were told so far were made; none if there are none.
    pub fn origin(&self) -> Option<&Fingerprint> {
        self.core.origin()
    }

    /// The open choices with what was told of them, as an attempt needs them.
    pub fn choices_so_far(&self) -> Vec<Choice> {
        self.core.choices_so_far()
    }

    /// What it means, with `now` counted as the deadline is: what the client is told, what the
    /// leader is, and how to go on.
    pub fn handle(&mut self, now: Duration, happened: Happened) -> (Vec<Told>, Vec<Finish>, Wants) {
        let event = match happened {
            Happened::Placed(endpoint, fingerprint) => Event::Placed(endpoint, fingerprint),
            Happened::Opened => Event::Opened,
            Happened::Nowhere(error) => Event::Nowhere(error),
            Happened::Unheld(error) => Event::Unheld(error),
            Happened::Down(down) => Event::Down(down),
            Happened::Broken(why) => Event::Broken(why),
            Happened::Tick => Event::Tick,
        };
        let Effects { deltas, finishes, then } = self.core.handle(self.born + now, event);
        let told = deltas.into_iter().map(|delta| Told {
            choice: delta.choice,
            tokens: delta.tokens,
            end: delta.end.map(|end| (end.reason, end.usage)),
        });
        let wants = match then {
            Then::Read => Wants::Read,
            Then::Place => Wants::Place,
            Then::Hold(error) => Wants::Hold(error),
            Then::Open => Wants::Open,
            Then::Done => Wants::Done,
            Then::Fail(error) => Wants::Fail(error),
        };
        (told.collect(), finishes, wants)
    }
}

// === impl Characters ===

impl Decode for Characters {
    fn push(&mut self, token: u32) -> String {
        SimulatedStream::text(token)
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}
