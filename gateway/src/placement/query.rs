//! What is to be placed, where it could go, and where it goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use troupe_runtime::{
    id::{Digest, EndpointId, RequestId},
    wire::{
        adapter::AdapterStatus,
        status::{EndpointInfo, Fingerprint},
    },
};

use super::{
    Duty, endpoint::Endpoint, explain::record::Decision, peers::Peer, prefix::namings::Hashes,
};
use crate::{ingress::hints::Hints, rules::Scope};

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    /// The name that the request uses.
    pub(crate) model: &'a str,
    /// The tokenizer that its prompt was made with.
    pub(crate) tokenizer: Digest,
    /// Endpoints that this request has tried.
    pub(crate) exclude: &'a BTreeSet<EndpointId>,
    /// Whose output it goes on with, if a part of it was delivered.
    pub(crate) goes_on: Option<GoesOn<'a>>,
    /// The request's id, as its client knows it.
    pub(crate) name: &'a str,
    /// Names its execution; with it equals are told apart, the same way each time.
    pub(crate) request: RequestId,
    /// Tokens of the prompt.
    pub(crate) tokens: u32,
    /// The names of the prompt's blocks.
    pub(crate) hashes: &'a Hashes,
    /// The services that may answer it; all of them if no route says.
    pub(crate) scope: Option<&'a Scope>,
    /// What the client asked of placement.
    pub(crate) hints: &'a Hints,
    /// Whether it was let in because an endpoint has a place, where it is to begin at once.
    pub(crate) at_once: bool,
    /// Since the gateway started.
    pub(crate) now: Duration,
}

impl Query<'_> {
    /// The gateway's time in microseconds.
    pub(crate) fn now_micros(&self) -> u64 {
        u64::try_from(self.now.as_micros()).unwrap_or(u64::MAX)
    }
}

/// What an endpoint needs to have to go on with an output that another began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GoesOn<'a> {
    /// This very fingerprint: then the tokens are the same.
    Exactly(&'a Fingerprint),
    /// This model.
    WithModel(Digest),
}

impl GoesOn<'_> {
    /// Whether an endpoint of this fingerprint may.
    pub(crate) fn at(self, fingerprint: &Fingerprint) -> bool {
        match self {
            Self::Exactly(origin) => fingerprint == origin,
            Self::WithModel(model) => fingerprint.model == model,
        }
    }
}

/// Where it could go: one endpoint as it is at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// What it is.
    pub(crate) info: &'a EndpointInfo,
    /// Its own among all that this gateway has known.
    pub(crate) number: u32,
    /// How busy its leader last said it is.
    pub(crate) load: Busy,
    /// Requests of this gateway that are there now; newer than `load`.
    pub(crate) in_flight: u32,
    /// Tokens of those requests that are not computed yet.
    pub(crate) uncached_in_flight: u64,
    /// Tokens of the prompt's beginning that its cache holds; none if that is not known.
    pub(crate) matched: u32,
    /// What it may be selected by.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// What it does.
    pub(crate) duty: Duty,
    /// How it and the request's adapter are to each other.
    pub(crate) adapter: Affinity,
    /// Whether one more request would begin there at once, as far as is known.
    pub(crate) has_place: bool,
    /// Since `load` was told.
    pub(crate) load_age: Duration,
}

/// How an endpoint and an adapter are to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Sequences run there with it.
    Active,
    /// There is room for it beside those that run; or no adapter is wanted.
    #[default]
    Room,
    /// Sequences wait for it there.
    Waiting,
    /// One that runs has to end first, or it is not there at all.
    NoRoom,
}

impl Affinity {
    /// Of an adapter's name at an endpoint.
    pub(crate) fn of(name: &str, status: &AdapterStatus) -> Self {
        let has = |names: &[String]| names.iter().any(|own| own == name);
        let used = status.running.len() + status.waiting.len();
        if has(&status.running) {
            Self::Active
        } else if has(&status.waiting) {
            Self::Waiting
        } else if status.served.iter().any(|own| own.name == name)
            && used < status.max_loras as usize
        {
            Self::Room
        } else {
            Self::NoRoom
        }
    }
}

/// Of what a leader says of its load, what placement looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Busy {
    /// Sequences in steps.
    pub(crate) running: u32,
    /// Sequences that wait for room.
    pub(crate) waiting: u32,
    /// KV blocks in use.
    pub(crate) blocks_used: u32,
    /// KV blocks in all.
    pub(crate) blocks_total: u32,
    /// Tokens whose KV comes from other groups in a second; 0 if none came yet.
    pub(crate) fetch_rate: u32,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Who answers it.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Who computes its prompt, if that is worth the transfer.
    pub(crate) prefill: Option<Arc<Endpoint>>,
    /// Whether somebody else of its service would compute its prompt, if there were anybody.
    pub(crate) misses_prefill: bool,
    /// Who has more of the prompt cached than it has itself, if sending that pays.
    pub(crate) peer: Option<Peer>,
    /// With what its session comes back, if it is placed by that.
    pub(crate) token: Option<String>,
    /// Why.
    pub(crate) decision: Arc<Decision>,
}
