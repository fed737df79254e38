//! One foreign endpoint, as far as this gateway knows it, and all of them.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use troupe_runtime::wire::status::{EndpointInfo, Load};

use super::{choose, config::ForeignEndpoint, tls::Tls};
use crate::placement::{
    breaker::Breaker,
    prefix::{cached::Cached, guessed::Guessed},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections to one endpoint that are kept for the next request.
const IDLE_CONNECTIONS: usize = 256;

/// All that are configured.
pub(crate) struct Upstreams {
    pub(crate) all: Vec<Arc<Upstream>>,
    /// What was sent to whom.
    pub(crate) guessed: Guessed,
    origin: Instant,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) config: ForeignEndpoint,
    pub(crate) info: EndpointInfo,
    /// As people are told it.
    pub(super) name: Arc<str>,
    /// Its place in the file.
    pub(super) number: u32,
    pub(super) client: Client<HttpsConnector<HttpConnector>, Body>,
    /// What it may have cached.
    pub(super) cached: Cached,
    in_flight: AtomicU32,
    // A std mutex: held for a look, never across an await.
    known: Mutex<Known>,
}

/// What it said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// It answers.
    pub(crate) ready: bool,
    pub(crate) models: Arc<[ForeignModel]>,
    pub(crate) load: Load,
    /// When it told its load, since the gateway started.
    pub(crate) told_at: Duration,
    pub(crate) breaker: Breaker,
}

/// A model that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignModel {
    pub(crate) id: String,
    pub(crate) max_model_len: Option<u32>,
}

/// Counts one request there for as long as it lives.
#[derive(Debug)]
pub(crate) struct There(Arc<Upstream>);

// === impl Upstreams ===

impl Upstreams {
    /// None of them is known to answer yet.
    pub(crate) fn new(configs: &[ForeignEndpoint]) -> Self {
        let guessed = Guessed::default();
        let upstream = |(number, config): (u32, &ForeignEndpoint)| {
            let (in_flight, known) = (AtomicU32::new(0), Mutex::default());
            let (info, config) = (choose::info(config), config.clone());
            let name = format!("{config:?}").into();
            let (client, cached) = (client(&config), guessed.cached());
            Arc::new(Upstream { config, info, name, number, client, cached, in_flight, known })
        };
        let all = (0..).zip(configs).map(upstream).collect();
        Self { all, guessed, origin: Instant::now() }
    }

    /// Time as breakers count it.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Those that answer and serve this model.
    pub(crate) fn serving<'a>(
        &'a self,
        model: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Upstream>, Known)> {
        self.all.iter().filter_map(move |upstream| {
            let known = upstream.known();
            let serves = known.ready && known.models.iter().any(|one| one.id == model);
            serves.then(|| (upstream, known.clone()))
        })
    }

    /// Every model that somebody serves.
    pub(crate) fn models(&self) -> Vec<ForeignModel> {
        let known = self.all.iter().map(|upstream| upstream.known().clone());
        known.filter(|known| known.ready).flat_map(|known| known.models.to_vec()).collect()
    }
}

fn client(config: &ForeignEndpoint) -> Client<HttpsConnector<HttpConnector>, Body> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(Tls::config(config.tls.as_ref()))
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_timer(TokioTimer::new())
        .build(connector)
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This gateway's requests that are there.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> There {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        There(Arc::clone(self))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|upstream| &upstream.config)).finish()
    }
}
