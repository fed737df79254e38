//! The endpoints of a simulated gateway: believed in as the store says, ready as the caller says,
//! and chosen as every gateway chooses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::{Digest, EndpointId, NodeId, RequestId},
    transport::{Class, Connection, Conversation, LinkError, PeerIdentity, PeerRole, Stream},
    wire::status::{EndpointInfo, Fingerprint, Load},
};

use crate::{
    holding::{
        catalog::ServiceName,
        core::{Core as Holding, Effect as Held, Event as Hold, Limits},
    },
    ingress::hints::Hints,
    placement::{
        GoesOn, Placed, Query,
        directory::Directory,
        endpoint::Endpoint,
        fence::Fence,
        prefix::namings::Hashes,
        underway::Underway,
        view::core::{Effect, Event, View},
    },
};

/// See the file.
#[derive(Debug)]
pub struct SimulatedGateway {
    directory: Arc<Directory>,
    view: View,
    fence: Fence,
    holding: Holding,
    ready: BTreeMap<EndpointId, (Arc<Endpoint>, Arc<Line>)>,
    connections: u64,
}

/// What the store says of an endpoint, under its key.
#[derive(Clone, Debug)]
pub enum StoreSays {
    /// This was known when the gateway ended.
    Recalled(String, EndpointRecord),
    /// It is there.
    Put(String, EndpointRecord),
    /// Somebody deleted it.
    Deleted(String),
    /// The store has lost it.
    Lost(String),
    /// The store has told all that it has, in the life that what was recalled is of.
    Known,
    /// Nothing, for a second.
    Nothing,
}

/// What the gateway is to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Try to have this endpoint ready, from now on.
    Keep(String, EndpointRecord),
    /// Do so no longer: it is no longer ready. Who is asked there already goes on.
    Drop(String),
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of the request; among equals it decides.
    pub request: RequestId,
    /// The name of the model.
    pub model: &'a str,
    /// The tokenizer that the prompt was made with.
    pub tokenizer: Digest,
    /// Tokens of the prompt.
    pub tokens: u32,
    /// Endpoints that it has tried.
    pub tried: &'a BTreeSet<EndpointId>,
    /// Connections over which an attempt of it was lost.
    pub broken: &'a BTreeSet<u64>,
    /// How what was told to its client was made, if something was.
    pub origin: Option<&'a Fingerprint>,
}

/// An endpoint that was chosen.
pub struct SimulatedPlace {
    placed: Placed,
    line: Arc<Line>,
}

/// A request where it was sent, counted there until it is dropped.
pub struct SimulatedAttempt {
    underway: Underway,
    line: Arc<Line>,
    born: Instant,
}

/// At the other end of a connection; it knows whether the gateway has closed it.
#[derive(Debug)]
struct Line {
    number: u64,
    peer: PeerIdentity,
    closed: AtomicBool,
}

/// What waits for an endpoint, all of it together, as a gateway's default is.
const LIMITS: Limits = Limits { requests: 4096, bytes: 256 << 20 };

// === impl SimulatedGateway ===

impl Default for SimulatedGateway {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedGateway {
    /// One that knows of no endpoint.
    pub fn new() -> Self {
        Self {
            directory: Arc::new(Directory::new(None).with_peer_fetch(false)),
            view: View::default(),
            fence: Fence::default(),
            holding: Holding::new(LIMITS),
            ready: BTreeMap::new(),
            connections: 0,
        }
    }

    /// The store says something.
    pub fn hear(&mut self, now: Duration, says: StoreSays) -> Vec<Keeping> {
        let event = match says {
            StoreSays::Recalled(key, record) => Event::Recalled(key, record),
            StoreSays::Put(key, record) => Event::Put(key, record),
            StoreSays::Deleted(key) => Event::Deleted(key),
            StoreSays::Lost(key) => Event::Lost(key),
            StoreSays::Known => Event::Known,
            StoreSays::Nothing => Event::Tick(self.ready.keys().cloned().collect()),
        };
        let effects = self.view.handle(now, event);
        for effect in &effects {
            if let Effect::Keep(_, record) = effect {
                self.fence.enforce(&record.info.endpoint, &self.directory.table());
            }
        }
        let keeping = effects.into_iter().map(|effect| match effect {
            Effect::Keep(key, record) => Keeping::Keep(key, record),
            Effect::Drop(key) => Keeping::Drop(key),
        });
        keeping.collect()
    }

    /// What is believed, for the disk.
    pub fn believed(&self) -> Vec<(String, EndpointRecord)> {
        self.view.records().map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// An endpoint has said that it is this one: it is ready.
    pub fn enter(&mut self, info: EndpointInfo, record: &EndpointRecord) {
        self.connections += 1;
        let line = Arc::new(Line {
            number: self.connections,
            peer: PeerIdentity {
                cluster: "simulated".into(),
                role: PeerRole::Node,
                node: NodeId::default(),
            },
            closed: AtomicBool::new(false),
        });
        let (labels, address) = (record.labels.clone(), record.address.clone());
        let prefixes = self.directory.prefixes();
        let connection = Arc::clone(&line) as Arc<dyn Connection>;
        let endpoint = Endpoint::new(info.clone(), None, labels, address, connection, prefixes);
        let endpoint = Arc::new(endpoint);
        self.ready.insert(info.endpoint, (Arc::clone(&endpoint), line));
        self.directory.enter(endpoint);
    }

    /// An endpoint is no longer ready; `dropped` if that is because it is no longer believed in.
    pub fn leave(&mut self, endpoint: &EndpointId, dropped: bool) {
        let Some((endpoint, _)) = self.ready.remove(endpoint) else { return };
        if dropped {
            self.fence.remember(&endpoint);
        }
        self.directory.leave(&endpoint);
    }

    /// An endpoint tells its load.
    pub fn load(&self, now: Duration, endpoint: &EndpointId, load: Load) {
        if let Some((endpoint, _)) = self.ready.get(endpoint) {
            endpoint.set_load(now, load);
        }
    }

    /// Whether the gateway has closed its connection to an endpoint that is ready.
    pub fn is_closed(&self, endpoint: &EndpointId) -> bool {
        self.ready.get(endpoint).is_some_and(|(_, line)| line.is_closed())
    }

    /// Who would take this: where its tokens are the same for sure, else where its model is.
    pub fn choose(&self, now: Duration, wanted: Wanted<'_>) -> Option<SimulatedPlace> {
        let hints = Hints::default();
        let broken = self.ready.iter().filter(|(_, (_, l))| wanted.broken.contains(&l.number));
        let broken = broken.map(|(endpoint, _)| endpoint);
        let exclude = wanted.tried.iter().chain(broken).cloned().collect();
        let place = |goes_on| {
            self.directory.place(&Query {
                model: wanted.model,
                tokenizer: wanted.tokenizer,
                exclude: &exclude,
                goes_on,
                name: "simulated",
                request: wanted.request,
                tokens: wanted.tokens,
                hashes: &Hashes::NONE,
                scope: None,
                at_once: false,
                hints: &hints,
                now,
            })
        };
        let placed = match wanted.origin {
            None => place(None),
            Some(origin) => place(Some(GoesOn::Exactly(origin)))
                .or_else(|| place(Some(GoesOn::WithModel(origin.model)))),
        };
        let placed = placed?;
        let (_, line) = self.ready.get(&placed.endpoint.info.endpoint)?;
        Some(SimulatedPlace { line: Arc::clone(line), placed })
    }

    /// Sends a request where it was placed.
    pub fn send(&self, now: Duration, place: &SimulatedPlace, max_tokens: u32) -> SimulatedAttempt {
        let born = self.directory.born();
        let underway = Underway::begin(&self.directory, &place.placed, 1, max_tokens, born + now);
        SimulatedAttempt { underway, line: Arc::clone(&place.line), born }
    }

    /// A request of so many bytes wants to wait for an endpoint; whether it may.
    pub fn hold(&mut self, now: Duration, model: &str, bytes: usize) -> bool {
        let effects = self.holding.handle(now, Hold::Ask(service(model), bytes));
        effects == [Held::Hold]
    }

    /// One that waited does so no longer.
    pub fn unhold(&mut self, now: Duration, model: &str, bytes: usize) {
        self.holding.handle(now, Hold::Leave(service(model), bytes));
    }

    /// Requests that wait.
    pub fn held(&self, model: &str) -> u32 {
        self.holding.held(&service(model))
    }
}

fn service(model: &str) -> ServiceName {
    ServiceName { namespace: "simulated".into(), name: model.to_owned() }
}

// === impl SimulatedPlace, SimulatedAttempt ===

impl SimulatedPlace {
    /// What was chosen.
    pub fn info(&self) -> &EndpointInfo {
        &self.placed.endpoint.info
    }

    /// The connection over which it is asked, by its number.
    pub fn connection(&self) -> u64 {
        self.line.number
    }

    /// Where its leader is reached.
    pub fn address(&self) -> &str {
        &self.placed.endpoint.address
    }
}

impl SimulatedAttempt {
    /// So many tokens of it came.
    pub fn tokens(&mut self, now: Duration, count: usize) {
        self.underway.tokens(self.born + now, count);
    }

    /// The endpoint is there, even if it refuses.
    pub fn answered(&self) {
        self.underway.answered();
    }

    /// It ended by the endpoint's doing, at this time of the gateway.
    pub fn broke(&self, now: Duration) {
        self.underway.endpoint().broke(now);
    }

    /// The connection that it is on, by its number.
    pub fn connection(&self) -> u64 {
        self.line.number
    }

    /// Whether the gateway has closed the connection that it is on.
    pub fn is_closed(&self) -> bool {
        self.line.is_closed()
    }
}

impl fmt::Debug for SimulatedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedPlace({})", self.info().endpoint)
    }
}

impl fmt::Debug for SimulatedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedAttempt({})", self.underway.endpoint().info.endpoint)
    }
}

// === impl Line ===

impl Line {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Connection for Line {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn class(&self) -> Class {
        Class::Control
    }

    async fn open(&self, _: Conversation, _: Duration) -> Result<Stream, LinkError> {
        Err(LinkError::Ended)
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        Err(LinkError::Ended)
    }

    async fn closed(&self) -> LinkError {
        LinkError::Ended
    }

    fn close(&self, _: &str) {
        self.closed.store(true, Ordering::Relaxed);
    }
}
