//! Which endpoint answers a request: `Filter -> Scorer -> Picker` over what is ready right now.
//!
//! Placement is a plain function of a [`Query`] and the [`Candidate`]s: no network, no clock. Names
//! and roles follow the Gateway API Inference Extension. Plug-ins are one small file each and are
//! named in one table, [`profile::Profile::decode`].
//!
//! - [`profile`]: which plug-ins, with what weight; runs them
//! - [`filter`]: who cannot take the request; [`scorer`]: who should, 0 to 1; [`picker`]: who will
//! - [`directory`]: the live table of endpoints, kept by one [`keeper`] task per endpoint
//! - `follower`: which endpoints are kept, as the store says; [`view`]: what to make of its silence
//! - `endpoints`: the table alone, to be measured
//! - [`endpoint`]: one ready endpoint: connection, load, what this gateway has in flight there
//! - `fence`: ends what still waits at an incarnation that is over

pub(crate) mod directory;
pub(crate) mod endpoint;
pub(crate) mod endpoints;
mod fence;
pub(crate) mod filter;
pub(crate) mod follower;
pub(crate) mod keeper;
pub(crate) mod picker;
pub(crate) mod profile;
pub(crate) mod scorer;
pub(crate) mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use troupe_runtime::{
    id::{Digest, EndpointId, RequestId},
    wire::status::{EndpointInfo, Fingerprint, Load},
};

use self::endpoint::Endpoint;
use crate::{ingress::hints::Hints, rules::Scope};

/// What is to be placed.
#[allow(dead_code, reason = "the scorers that read all of it are under way")]
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
    /// Names its execution; with it equals are told apart, the same way each time.
    pub(crate) request: RequestId,
    /// Tokens of the prompt.
    pub(crate) tokens: u32,
    /// The services that may answer it; all of them if no route says.
    pub(crate) scope: Option<&'a Scope>,
    /// What the client asked of placement.
    pub(crate) hints: &'a Hints,
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
#[allow(dead_code, reason = "the scorers that read all of it are under way")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// What it is.
    pub(crate) info: &'a EndpointInfo,
    /// How busy its leader last said it is.
    pub(crate) load: Load,
    /// Requests of this gateway that are there now; newer than `load`.
    pub(crate) in_flight: u32,
    /// Tokens of those requests that are not computed yet.
    pub(crate) uncached_in_flight: u64,
    /// Tokens of the prompt's beginning that its cache holds; none if that is not known.
    pub(crate) matched: u32,
    /// What it may be selected by.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Since `load` was told.
    pub(crate) load_age: Duration,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Who answers it.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Who computes its prompt, if that is worth the transfer.
    pub(crate) prefill: Option<Arc<Endpoint>>,
}
