//! What a request goes through before it is placed: one queue per model, shared by all connections.
//!
//! A request that is let in holds a [`Pass`] for as long as its answer lasts; a pass that is
//! dropped lets the next one in. While anybody waits, load is looked at every few milliseconds.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use troupe_runtime::telemetry::{
    metrics::Labels,
    names::{self, LABEL_MODEL},
};

use super::{
    core::{Ask, Core, Effect, Event, Limits, Refusal, Ticket, Why},
    saturation::{Begins, Pool, Room, Thresholds},
};
use crate::{
    config::FlowControl, error::ApiError, foreign::upstream::Upstreams, metrics::Metrics,
    placement::directory::Directory, tenants::Caller,
};

/// How requests are let in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FlowSettings {
    /// Whether requests wait at all.
    pub(crate) enabled: bool,
    pub(crate) limits: Limits,
    pub(crate) thresholds: Thresholds,
}

/// All models' queues.
#[derive(Debug)]
pub(crate) struct Flow {
    settings: FlowSettings,
    directory: Arc<Directory>,
    foreign: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    // A std mutex: held for a decision of microseconds, never across an await.
    queues: Mutex<BTreeMap<String, Queue>>,
    /// Somebody began to wait.
    waits: Notify,
    origin: Instant,
}

#[derive(Debug)]
struct Queue {
    core: Core,
    /// Those that wait, to be told.
    waiting: BTreeMap<Ticket, oneshot::Sender<Told>>,
    pool: Pool,
    /// When `pool` was made.
    looked_at: Option<Instant>,
    /// How long requests waited, by their priority and what came of it.
    durations: BTreeMap<(i32, &'static str), Histogram>,
}

/// What a request is told.
type Told = Result<Begins, Refusal>;

/// What a request is to a queue, as its gateway knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) model: &'a str,
    pub(crate) caller: &'a Caller,
    /// Higher goes first; below zero may be shed.
    pub(crate) priority: i32,
    /// Tokens of its prompts.
    pub(crate) tokens: u64,
    /// When its answer is worthless.
    pub(crate) deadline: Instant,
}

/// The right to be executed. Dropping it says that the request is over.
#[derive(Debug)]
pub(crate) struct Pass {
    held: Option<Held>,
    begins: Begins,
}

#[derive(Debug)]
struct Held {
    flow: Arc<Flow>,
    model: String,
    ticket: Ticket,
    output: Arc<AtomicU64>,
}

/// Load is at most so old when somebody is let in, beside what leaders take to tell it.
const LOOK: Duration = Duration::from_millis(5);

// === impl FlowSettings ===

impl FlowSettings {
    pub(crate) fn of(config: &FlowControl) -> Self {
        let FlowControl { enabled, max_requests, max_bytes, ttl, .. } = *config;
        Self {
            enabled,
            limits: Limits { requests: max_requests, bytes: max_bytes, ttl },
            thresholds: Thresholds {
                queue_depth: config.queue_depth_threshold,
                kv_cache_util: config.kv_cache_util_threshold,
                holdback: config.priority_holdback,
            },
        }
    }
}

// === impl Flow ===

impl Flow {
    pub(crate) fn new(
        settings: FlowSettings,
        (directory, foreign): (Arc<Directory>, Arc<Upstreams>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let (queues, waits, origin) = (Mutex::default(), Notify::new(), Instant::now());
        Self { settings, directory, foreign, metrics, queues, waits, origin }
    }

    /// Waits until the request may be executed.
    ///
    /// # Errors
    /// 429 if it is shed or too many wait, 503 if it has waited as long as it may.
    pub(crate) async fn enter(self: &Arc<Self>, entry: Entry<'_>) -> Result<Pass, ApiError> {
        if !self.settings.enabled {
            return Ok(Pass { held: None, begins: Begins::InTurn });
        }
        let began = Instant::now();
        let ask = Ask {
            priority: entry.priority,
            tenant: Arc::clone(&entry.caller.tenant),
            weight: entry.caller.weight,
            tokens: entry.tokens,
            // What the prompts' tokens take; the rest of a request is small.
            bytes: usize::try_from(entry.tokens).unwrap_or(usize::MAX).saturating_mul(4),
            deadline: entry.deadline.saturating_duration_since(self.origin),
        };
        let (ticket, told) = self.ask(entry.model, ask);
        // From here on whoever goes away leaves in order.
        let held = Held {
            flow: Arc::clone(self),
            model: entry.model.to_owned(),
            ticket,
            output: Arc::default(),
        };
        let pass = Pass { held: Some(held), begins: Begins::InTurn };
        let told = match told {
            Ok(waits) => {
                self.waits.notify_one();
                // The sender is dropped without a word only with the gateway.
                let late = Refusal { why: Why::Late, retry_after: 1 };
                waits.await.unwrap_or(Err(late))
            }
            Err(told) => told,
        };
        self.note(entry.model, entry.priority, began, &told);
        told.map(|begins| Pass { begins, ..pass }).map_err(refused)
    }

    /// Looks at load while anybody waits. Never returns; ends with its task.
    pub(crate) async fn run(self: Arc<Self>) -> Infallible {
        loop {
            let waits = self.look();
            if waits {
                tokio::time::sleep(LOOK).await;
            } else {
                self.waits.notified().await;
            }
        }
    }

    /// Asks to be let in: what was said at once, or where it will be said.
    fn ask(&self, model: &str, ask: Ask) -> (Ticket, Result<oneshot::Receiver<Told>, Told>) {
        let mut queues = self.queues();
        let queue = self.queue(&mut queues, model);
        let effects = queue.handle(&self.settings.thresholds, self.now(), Event::Ask(ask));
        let own = queue.core.latest();
        let mut told = None;
        for effect in effects {
            match effect {
                Effect::Wait(ticket) => {
                    let (tell, waits) = oneshot::channel();
                    queue.waiting.insert(ticket, tell);
                    told = Some(Ok(waits));
                }
                Effect::Admit(ticket, begins) if ticket == own && told.is_none() => {
                    told = Some(Err(Ok(begins)));
                }
                Effect::Refuse(ticket, refusal) if ticket == own => told = Some(Err(Err(refusal))),
                Effect::Admit(ticket, begins) => queue.tell(ticket, Ok(begins)),
                Effect::Refuse(ticket, refusal) => queue.tell(ticket, Err(refusal)),
            }
        }
        // Every ask is answered with one of the three.
        (own, told.unwrap_or(Err(Ok(Begins::InTurn))))
    }

    /// Takes an event to a model's queue, if there is one.
    fn handle(&self, model: &str, events: impl IntoIterator<Item = Event>) {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(model) else { return };
        self.refresh(model, queue);
        let waited = queue.core.waiting();
        for event in events {
            queue.act(&self.settings.thresholds, self.now(), event);
        }
        if waited > 0 {
            self.gauge(model, queue);
        }
    }

    /// Lets in whom there is room for, turns away whose time is over, and says whether anybody
    /// waits.
    fn look(&self) -> bool {
        let mut queues = self.queues();
        let mut waits = false;
        for (model, queue) in &mut *queues {
            if queue.core.waiting() == 0 {
                continue;
            }
            self.refresh(model, queue);
            queue.act(&self.settings.thresholds, self.now(), Event::Look);
            self.gauge(model, queue);
            waits |= queue.core.waiting() > 0;
        }
        waits
    }

    /// A model's queue. It stays when nobody is in it: only models that are served get here, and
    /// what is known of their endpoints and of how fast they are need not be found out anew.
    fn queue<'a>(&self, queues: &'a mut BTreeMap<String, Queue>, model: &str) -> &'a mut Queue {
        let new = || Queue::new(self.settings.limits);
        let queue = queues.entry(model.to_owned()).or_insert_with(new);
        self.refresh(model, queue);
        queue
    }

    fn refresh(&self, model: &str, queue: &mut Queue) {
        let now = Instant::now();
        if queue.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return;
        }
        queue.looked_at = Some(now);
        let table = self.directory.table();
        let serving = table.values().filter(|endpoint| endpoint.serves(model));
        let rooms = serving.map(|endpoint| Room {
            load: endpoint.load(),
            max_sequences: endpoint.info.max_num_seqs,
            own: endpoint.in_flight(),
            others: endpoint.others(),
        });
        let foreign = self.foreign.all();
        let foreign = foreign.iter().filter_map(|upstream| upstream.serving(model));
        let others = foreign.map(|known| Room { load: known.load, ..Room::default() });
        let admitted = queue.core.admitted();
        queue.pool = Pool::new(&self.settings.thresholds, admitted, rooms.chain(others));
    }

    fn note(&self, model: &str, priority: i32, began: Instant, told: &Told) {
        let outcome = match told {
            Ok(_) => "Dispatched",
            Err(refusal) => refusal.why.outcome(),
        };
        let (band, waited) = (band(priority), began.elapsed().as_secs_f64());
        // Its own was made when it was asked to be let in.
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(model) else { return };
        let durations = queue.durations.entry((band, outcome)).or_insert_with(|| {
            let labels: Labels = vec![
                (LABEL_MODEL, model.to_owned()),
                ("priority", band.to_string()),
                ("outcome", outcome.to_owned()),
            ];
            self.metrics.all().histogram(names::FLOW_QUEUE_DURATION, &labels)
        });
        durations.observe(waited);
    }

    fn gauge(&self, model: &str, queue: &Queue) {
        let thresholds = &self.settings.thresholds;
        let model = (LABEL_MODEL, model.to_owned());
        let all = self.metrics.all();
        let saturation = queue.pool.saturation(thresholds, queue.core.admitted());
        all.gauge(names::FLOW_POOL_SATURATION, &vec![model.clone()]).set(saturation);
        let size = queue.core.waiting() as f64;
        all.gauge(names::FLOW_QUEUE_SIZE, &vec![model]).set(size);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client may claim any priority: few of them are told apart.
fn band(priority: i32) -> i32 {
    priority.clamp(-10, 10)
}

fn refused(refusal: Refusal) -> ApiError {
    let Refusal { why, retry_after } = refusal;
    match why {
        Why::Late => ApiError::unavailable(
            "The request has waited as long as it may for an endpoint with room. Please try again \
             later.",
        ),
        Why::Shed => ApiError::too_many(
            "All endpoints of the model are saturated, and requests of this priority are shed \
             then. Please try again later.",
        ),
        Why::Hopeless => ApiError::too_many(
            "All endpoints of the model are saturated, and the request would wait longer for one \
             with room than it may. Please try again later.",
        ),
        Why::Full | Why::Displaced => ApiError::too_many(
            "All endpoints of the model are saturated, and too many requests wait already. Please \
             try again later.",
        ),
    }
    .after(retry_after)
    .dropped(why.outcome())
}

// === impl Queue ===

impl Queue {
    fn new(limits: Limits) -> Self {
        Self {
            core: Core::new(limits),
            waiting: BTreeMap::new(),
            pool: Pool::default(),
            looked_at: None,
            durations: BTreeMap::new(),
        }
    }

    fn handle(&mut self, thresholds: &Thresholds, now: Duration, event: Event) -> Vec<Effect> {
        let pool = self.pool;
        self.core.handle(now, event, &|admitted, rank| pool.room(thresholds, admitted, rank))
    }

    /// Takes an event that nobody waits for the answer of.
    fn act(&mut self, thresholds: &Thresholds, now: Duration, event: Event) {
        if let Event::Leave(ticket) = &event {
            self.waiting.remove(ticket);
        }
        for effect in self.handle(thresholds, now, event) {
            match effect {
                Effect::Admit(ticket, begins) => self.tell(ticket, Ok(begins)),
                Effect::Refuse(ticket, refusal) => self.tell(ticket, Err(refusal)),
                Effect::Wait(_) => {}
            }
        }
    }

    /// If its client is gone, its pass is dropped, and says so itself.
    fn tell(&mut self, ticket: Ticket, told: Told) {
        if let Some(waits) = self.waiting.remove(&ticket) {
            let _ = waits.send(told);
        }
    }
}

// === impl Pass ===

impl Pass {
    /// Where to count the tokens that are brought.
    pub(crate) fn output(&self) -> Option<Arc<AtomicU64>> {
        self.held.as_ref().map(|held| Arc::clone(&held.output))
    }

    /// Whether it was given because some endpoint has a place.
    pub(crate) fn begins(&self) -> Begins {
        self.begins
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let output = self.output.load(Ordering::Relaxed);
        // It waits or was let in, or neither any more: what does not fit says nothing.
        let events = [Event::Leave(self.ticket), Event::Done(self.ticket, output)];
        self.flow.handle(&self.model, events);
    }
}

// === impl Why ===

impl Why {
    /// llm-d's word for it.
    fn outcome(self) -> &'static str {
        match self {
            Self::Shed => "RejectedSaturated",
            Self::Full | Self::Hopeless => "RejectedCapacity",
            Self::Displaced => "EvictedCapacity",
            Self::Late => "EvictedTTL",
        }
    }
}
