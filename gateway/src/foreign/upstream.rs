//! One foreign endpoint, as far as this gateway knows it, and all of them.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderValue;
use tokio::{sync::watch, time::Instant};
use troupe_runtime::wire::status::{EndpointInfo, Load};

use super::{choose, config::ForeignEndpoint, line::Lines};
use crate::placement::{
    breaker::Breaker,
    prefix::{cached::Cached, guessed::Guessed},
};

/// All of them: those of the file for ever, those of pools as long as these name them.
pub(crate) struct Upstreams {
    all: watch::Sender<All>,
    /// Of the file.
    fixed: usize,
    /// How many there ever were.
    count: AtomicU32,
    /// What was sent to whom.
    pub(crate) guessed: Guessed,
    origin: Instant,
}

/// Those that there are now. Immutable: a change makes a new one.
pub(crate) type All = Arc<[Arc<Upstream>]>;

/// One of them.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) config: ForeignEndpoint,
    pub(crate) info: EndpointInfo,
    /// As people are told it.
    pub(super) name: Arc<str>,
    /// Its own among all that there ever were.
    pub(super) number: u32,
    pub(super) lines: Arc<Lines>,
    /// As answers say who served them.
    pub(super) served: Option<HeaderValue>,
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
        let upstreams = Self {
            all: watch::Sender::new(Arc::from([])),
            fixed: configs.len(),
            count: AtomicU32::new(0),
            guessed: Guessed::default(),
            origin: Instant::now(),
        };
        let all = configs.iter().map(|config| upstreams.upstream(config));
        upstreams.all.send_replace(all.collect());
        upstreams
    }

    fn upstream(&self, config: &ForeignEndpoint) -> Arc<Upstream> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (in_flight, known) = (AtomicU32::new(0), Mutex::default());
        let (info, config) = (choose::info(config), config.clone());
        let name = format!("{config:?}").into();
        let (lines, cached) = (Arc::new(Lines::new(&config)), self.guessed.cached());
        let served = HeaderValue::from_str(config.authority.as_str()).ok();
        Arc::new(Upstream { config, info, name, number, lines, served, cached, in_flight, known })
    }

    /// Pools name these now. One that they named before stays as it is, and requests that are at
    /// one that is gone end there.
    pub(crate) fn declare(&self, configs: &[ForeignEndpoint]) {
        // There is one who declares. Requests look meanwhile: making clients takes its time.
        let all = self.all();
        let (fixed, declared) = all.split_at(self.fixed);
        if declared.iter().map(|one| &one.config).eq(configs) {
            return;
        }
        let kept = |config: &ForeignEndpoint| declared.iter().find(|one| one.config == *config);
        let one = |config| kept(config).cloned().unwrap_or_else(|| self.upstream(config));
        self.all.send_replace(fixed.iter().cloned().chain(configs.iter().map(one)).collect());
    }

    /// Those that there are now.
    pub(crate) fn all(&self) -> All {
        Arc::clone(&self.all.borrow())
    }

    /// Changes of who there is.
    pub(super) fn changes(&self) -> watch::Receiver<All> {
        self.all.subscribe()
    }

    /// Time as breakers count it.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Every model that somebody serves.
    pub(crate) fn models(&self) -> Vec<ForeignModel> {
        let all = self.all();
        let known = all.iter().map(|upstream| upstream.known().clone());
        known.filter(|known| known.ready).flat_map(|known| known.models.to_vec()).collect()
    }
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is, if it answers and serves a model.
    pub(crate) fn serving(&self, model: &str) -> Option<MutexGuard<'_, Known>> {
        let known = self.known();
        let serves = known.ready && known.models.iter().any(|one| one.id == model);
        serves.then_some(known)
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
        f.debug_list().entries(self.all().iter().map(|upstream| &upstream.config)).finish()
    }
}
