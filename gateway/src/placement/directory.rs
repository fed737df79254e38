//! The table of ready endpoints, which placement reads without waiting for anybody.
//!
//! The [`follower`](super::follower) says which endpoints there should be; each one's keeper
//! connects to it and enters it here while it is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use troupe_runtime::{
    id::EndpointId,
    wire::{adapter::AdapterStatus, status::Fingerprint},
};

use super::{
    Affinity, Candidate, Placed, Query,
    endpoint::Endpoint,
    explain::{recent::Recent, record::Decision},
    handler::Placer,
    latency::{Features, Measured, Predicted, Predictor},
    peers::{self, Peer},
    pools::{Pool, Pools},
    prefix::namings::{Naming, Prefixes},
    scene::{Filling, Scene},
    session,
};
use crate::{error::ApiError, model::Served, rules::Scope};

/// Ready endpoints, in the order of their ids. Immutable: a change makes a new one.
pub(crate) type Table = Arc<BTreeMap<EndpointId, Arc<Endpoint>>>;

/// Why a name cannot be served now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// None was given, and no model is ready.
    Nothing,
    /// Its endpoints are all away.
    NotReady(String),
    /// Nobody has it; these are the names that are known.
    Unknown(String, Vec<String>),
}

/// Shared by keepers, which write, and requests, which read.
#[derive(Debug)]
pub(crate) struct Directory {
    table: watch::Sender<Table>,
    /// Every name that an endpoint of the registry has, ready or not.
    known: watch::Sender<BTreeSet<String>>,
    /// What endpoints have cached.
    prefixes: Arc<Prefixes>,
    /// For each name, in which ways its endpoints name blocks: asked for by every request, and new
    /// only when the table is.
    namings: RwLock<BTreeMap<String, BTreeSet<Naming>>>,
    pools: Pools,
    predictor: Mutex<Predictor>,
    recent: Recent,
    /// Whether cached blocks are fetched from endpoints that have them.
    peer_fetch: bool,
    born: Instant,
}

// === impl Directory ===

impl Directory {
    /// One of nobody. Requests are placed so where a service does not say how.
    pub(crate) fn new(otherwise: Option<Arc<Placer>>) -> Self {
        Self {
            table: watch::Sender::new(Table::default()),
            known: watch::Sender::new(BTreeSet::new()),
            prefixes: Arc::new(Prefixes::default()),
            namings: RwLock::default(),
            pools: Pools::new(otherwise),
            predictor: Mutex::default(),
            recent: Recent::default(),
            peer_fetch: true,
            born: Instant::now(),
        }
    }

    /// Whether cached blocks are fetched from endpoints that have them.
    pub(crate) fn with_peer_fetch(mut self, on: bool) -> Self {
        self.peer_fetch = on;
        self
    }

    /// What is ready now.
    pub(crate) fn table(&self) -> Table {
        Arc::clone(&self.table.borrow())
    }

    /// Changes of the table.
    pub(crate) fn changes(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }

    /// Changes the names that endpoints have, ready or not; `change` says whether it did.
    pub(crate) fn know(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        self.known.send_if_modified(change);
    }

    /// What a request's `model` means; without one, the first model that is served.
    ///
    /// # Errors
    /// Why it means nothing that is served now.
    pub(crate) fn resolve(
        &self,
        name: Option<&str>,
        scope: Option<&Scope>,
    ) -> Result<Served, Unserved> {
        let table = self.table();
        let within = |endpoint: &&Arc<Endpoint>| {
            scope.is_none_or(|scope| scope.has(&endpoint.info.endpoint.group))
        };
        let mut all = table.values().filter(within);
        let mut first = || all.find_map(|endpoint| endpoint.info.model_names.first());
        let name = name.filter(|name| !name.is_empty()).or_else(|| first().map(String::as_str));
        let Some(name) = name else { return Err(Unserved::Nothing) };
        let serves = |endpoint: &&Arc<Endpoint>| within(endpoint) && endpoint.serves(name);
        let text_side = |endpoint: &Arc<Endpoint>| {
            Some((endpoint.model.clone()?, endpoint.info.embeds.clone()))
        };
        let Some((model, embeds)) = table.values().filter(serves).find_map(text_side) else {
            let known = self.known.borrow();
            if known.contains(name) {
                return Err(Unserved::NotReady(name.to_owned()));
            }
            let served = table.values().filter(within).flat_map(|endpoint| endpoint.names());
            let known: BTreeSet<String> = known.iter().cloned().chain(served).collect();
            return Err(Unserved::Unknown(name.to_owned(), known.into_iter().collect()));
        };
        // Whatever endpoint is picked later must have the room.
        let lengths = table.values().filter(serves).map(|endpoint| endpoint.info.max_model_len);
        Ok(Served {
            name: name.to_owned(),
            model,
            adapter: table.values().find(serves).and_then(|endpoint| endpoint.adapter(name)),
            max_model_len: lengths.min().unwrap_or_default(),
            embeds,
            priority: None,
        })
    }

    /// Whether a model is served now.
    pub(crate) fn serves(&self, model: &str, scope: Option<&Scope>) -> bool {
        self.table().values().any(|endpoint| {
            scope.is_none_or(|scope| scope.has(&endpoint.info.endpoint.group))
                && endpoint.model.is_some()
                && endpoint.serves(model)
        })
    }

    /// Where a request goes, if anybody can take it.
    pub(crate) fn place(&self, query: &Query<'_>) -> Option<Placed> {
        let pool = self.pools.of(query.model)?;
        let rows = pool.rows(query);
        let endpoint = |row: usize| &pool.members[rows[row] as usize];
        let matched = self.matched(query, (&pool, &rows));
        let now = query.now_micros();
        let mut filling = Filling::of(rows.len());
        let each = rows.iter().zip(&matched);
        match &query.hints.adapter {
            // Most requests: nothing is looked for that is not at hand.
            None => each.for_each(|(row, matched)| {
                let member = &pool.members[*row as usize];
                filling.push(&member.candidate(pool.known(*row), now, *matched));
            }),
            Some(wanted) => each.for_each(|(row, matched)| {
                let member = &pool.members[*row as usize];
                let adapter = Affinity::of(&wanted.name, &member.adapters());
                let plain = member.candidate(pool.known(*row), now, *matched);
                filling.push(&Candidate { adapter, ..plain });
            }),
        }
        let mut scene = filling.settled();
        if pool.placer.predicts(&scene) {
            scene.predict(self.expected(query, &scene, (&pool, &rows)));
        }
        let outcome = pool.placer.place(query, scene);
        let (at, prefill) = (outcome.endpoint?, outcome.prefill);
        let misses_prefill = outcome.misses_prefill;
        let picked = endpoint(at).candidate(endpoint(at).known(), now, matched[at]);
        let features = Features::of(query, &Scene::of([picked].into_iter()), 0);
        let (predicted, offer) = {
            let predictor = self.predictor();
            let fingerprint = &endpoint(at).info.fingerprint;
            let sooner = |tokens| peers::sooner(&predictor, fingerprint, &features, tokens);
            let info = |row: usize| &endpoint(row).info;
            let alone = self.peer_fetch && prefill.is_none();
            let offer = alone
                .then(|| peers::offer(info, &matched, (at, endpoint(at).fetch_rate()), sooner));
            (predictor.predict(fingerprint, &features), offer.flatten())
        };
        let peer = offer.filter(|offer| offer.fetched).map(|offer| Peer {
            endpoint: Arc::clone(endpoint(offer.row)),
            tokens: offer.cached_tokens,
        });
        let name = |row: usize| Arc::clone(&endpoint(row).name);
        let learned = (features, predicted);
        let decision = Decision::new(query, (rows.len(), &name), outcome, learned, offer)?;
        let decision = Arc::new(decision);
        self.recent.keep(&decision);
        Some(Placed {
            endpoint: Arc::clone(endpoint(at)),
            prefill: prefill.map(|at| Arc::clone(endpoint(at))),
            misses_prefill,
            peer,
            token: pool.placer.tokens.then(|| session::token_of(&endpoint(at).info.endpoint)),
            decision,
        })
    }

    /// Tokens of the prompt's beginning that each one's cache holds.
    fn matched(&self, query: &Query<'_>, (pool, rows): (&Pool, &[u32])) -> Vec<u32> {
        let mut matched = vec![0; rows.len()];
        for named in query.hashes.all() {
            let runs = self.prefixes.index.runs(&named.hashes);
            if runs.is_empty() {
                continue;
            }
            for (matched, row) in matched.iter_mut().zip(rows) {
                let known = pool.known(*row);
                if known.naming == named.naming {
                    *matched = runs.at(&known.line) * named.block_size;
                }
            }
        }
        matched
    }

    /// What endpoints have cached.
    pub(crate) fn prefixes(&self) -> &Arc<Prefixes> {
        &self.prefixes
    }

    /// The ways in which the endpoints of a model name their blocks.
    pub(crate) fn namings(&self, model: &str) -> BTreeSet<Naming> {
        let namings = self.namings.read().unwrap_or_else(PoisonError::into_inner);
        namings.get(model).cloned().unwrap_or_default()
    }

    fn look_at_namings(&self) {
        // Held from before the table is looked at, so that the last to write has seen the last.
        let mut namings = self.namings.write().unwrap_or_else(PoisonError::into_inner);
        namings.clear();
        for endpoint in self.table().values() {
            for name in endpoint.names() {
                namings.entry(name).or_default().insert(endpoint.cached.naming());
            }
        }
    }

    /// What is expected of each; nothing if it is not known of all.
    fn expected(
        &self,
        query: &Query<'_>,
        scene: &Scene<'_>,
        (pool, rows): (&Pool, &[u32]),
    ) -> Vec<Predicted> {
        let predictor = self.predictor();
        // Looked for once for each way, and not for each endpoint.
        let times: Vec<_> = pool.fingerprints().iter().map(|of| predictor.times(of)).collect();
        let of =
            |row: usize| times[pool.kind(rows[row])]?.predict(&Features::of(query, scene, row));
        (0..scene.len()).map(of).collect::<Option<_>>().unwrap_or_default()
    }

    /// Learns from what was measured.
    pub(crate) fn learn(&self, of: &Fingerprint, features: &Features, measured: Measured) {
        self.predictor().learn(of, features, measured);
    }

    fn predictor(&self) -> MutexGuard<'_, Predictor> {
        self.predictor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was decided lately.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The gateway's time, as plug-ins know it.
    pub(crate) fn now(&self) -> Duration {
        self.born.elapsed()
    }

    /// The gateway's time at a moment.
    pub(crate) fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.born)
    }

    /// What the gateway's time counts from.
    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    /// What places requests where no service says how.
    pub(crate) fn otherwise(&self) -> Arc<Placer> {
        self.pools.otherwise()
    }

    /// How services say that their requests are placed, by namespace and name.
    pub(crate) fn configure(&self, services: BTreeMap<(String, String), Arc<Placer>>) {
        self.pools.configure(services);
        // Under the table's lock, so that nobody who comes meanwhile is left out again.
        self.table.send_if_modified(|table| {
            self.pools.follow(table);
            false
        });
    }

    /// An endpoint became ready.
    pub(crate) fn enter(&self, endpoint: Arc<Endpoint>) {
        tracing::info!(endpoint = %endpoint.info.endpoint, "endpoint ready");
        self.table.send_modify(|table| {
            let id = endpoint.info.endpoint.clone();
            Arc::make_mut(table).insert(id, endpoint);
            self.pools.follow(table);
        });
        self.look_at_namings();
    }

    /// What an endpoint's leader says of adapters. Names that come or go are an endpoint's that
    /// comes or goes.
    pub(crate) fn adapt(&self, endpoint: &Endpoint, status: AdapterStatus) {
        if endpoint.set_adapters(status) {
            self.table.send_modify(|table| self.pools.follow(table));
            self.look_at_namings();
        }
    }

    /// An endpoint is no longer ready. A successor of the same name stays.
    pub(crate) fn leave(&self, endpoint: &Arc<Endpoint>) {
        let id = &endpoint.info.endpoint;
        tracing::info!(endpoint = %id, "endpoint gone");
        self.table.send_modify(|table| {
            if table.get(id).is_some_and(|known| Arc::ptr_eq(known, endpoint)) {
                Arc::make_mut(table).remove(id);
                self.pools.follow(table);
            }
        });
        self.look_at_namings();
    }
}

// === impl Unserved ===

impl Unserved {
    /// The same, where these names are known besides, though nobody serves them now.
    pub(crate) fn among(self, declared: BTreeSet<String>) -> Self {
        match self {
            Self::Unknown(name, _) if declared.contains(&name) => Self::NotReady(name),
            Self::Unknown(name, known) => {
                let all: BTreeSet<String> = known.into_iter().chain(declared).collect();
                Self::Unknown(name, all.into_iter().collect())
            }
            other => other,
        }
    }
}

impl From<Unserved> for ApiError {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::Nothing => Self::unavailable("No model is ready."),
            // A gateway that knows of nothing cannot say that there is nothing.
            Unserved::Unknown(name, known) if !known.is_empty() => {
                Self::unknown_model(&name, &known)
            }
            Unserved::NotReady(name) | Unserved::Unknown(name, _) => {
                Self::unavailable(format!("No endpoint of the model `{name}` is ready."))
            }
        }
    }
}
