//! One request's wait for an endpoint.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::GroupId,
    telemetry::{
        metrics::Labels,
        names::{self, LABEL_SERVICE},
    },
};

use super::{
    catalog::{Catalog, Declared, ServiceName},
    core::{Core, Effect, Event, Limits},
};
use crate::{error::BUSY, metrics::Metrics, placement::directory::Directory};

/// Where requests wait.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) catalog: Arc<Catalog>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    // A std mutex: held for a look at a small table, never across an await.
    core: Mutex<Core>,
    /// Something is to be told.
    pub(super) changed: Notify,
    /// What the core's `now` counts from.
    origin: Instant,
    patience: Duration,
}

/// What waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait<'a> {
    /// The name that the request uses, if it uses one.
    pub(crate) model: Option<&'a str>,
    /// What it takes in memory.
    pub(crate) bytes: usize,
    /// When its answer is worthless.
    pub(crate) deadline: Instant,
}

/// Why a request waits no longer, or did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unheld {
    /// No service has this name, or it is to have no group.
    NotDeclared,
    /// The controller has given it up, and why.
    Failed(String),
    /// Too many wait already.
    Full,
    /// Nobody came up in time.
    Late(Duration),
    /// The request's own time is over.
    Deadline,
}

/// A place among those that wait. Dropping it leaves, whatever the reason: also when the client is
/// gone.
struct Place<'a> {
    holding: &'a Holding,
    service: ServiceName,
    bytes: usize,
    since: Instant,
    outcome: &'static str,
}

// === impl Holding ===

impl Holding {
    /// Nobody waits. At most `limits` will, each at most `patience`.
    pub(crate) fn new(
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        limits: Limits,
        patience: Duration,
    ) -> Self {
        Self {
            catalog: Arc::new(Catalog::new()),
            directory,
            metrics,
            core: Mutex::new(Core::new(limits)),
            changed: Notify::new(),
            origin: Instant::now(),
            patience,
        }
    }

    /// Waits until `ready` has something, which is asked whenever an endpoint comes or goes.
    ///
    /// # Errors
    /// Why it waits no longer; at once for what nobody will serve.
    pub(crate) async fn until<T>(
        &self,
        wait: Wait<'_>,
        ready: impl Fn() -> Option<T>,
    ) -> Result<T, Unheld> {
        // Subscribed before anything is looked at: a change in between is seen.
        let (mut table, mut services) = (self.directory.changes(), self.catalog.changes());
        let (service, _) = self.service(wait.model)?;
        let mut place = self.take(service, wait.bytes)?;
        let patience = Instant::now() + self.patience;
        loop {
            if let Some(ready) = ready() {
                place.outcome = "placed";
                return Ok(ready);
            }
            self.service(wait.model)?;
            tokio::select! {
                // Their senders live as long as this.
                _ = table.changed() => {}
                _ = services.changed() => {}
                () = sleep_until(wait.deadline) => {
                    place.outcome = "timeout";
                    return Err(Unheld::Deadline);
                }
                () = sleep_until(patience) => {
                    place.outcome = "timeout";
                    return Err(Unheld::Late(self.patience));
                }
            }
        }
    }

    /// A request went to a service whose side for computing prompts would have been of use to it,
    /// and is not there. If that comes up when it is asked for, it is asked for.
    pub(crate) fn want_prefill(&self, group: &GroupId) {
        let side = self.catalog.prefill_on_demand(&group.namespace, &group.service);
        if let Some(side) = side {
            self.core().handle(self.origin.elapsed(), Event::Want(side));
            self.changed.notify_one();
        }
    }

    /// What the core says now is to be told, and when to ask again.
    pub(super) fn look(&self) -> Vec<Effect> {
        self.core().handle(self.origin.elapsed(), Event::Look)
    }

    /// What the core's times mean.
    pub(super) fn at(&self, time: Duration) -> Instant {
        self.origin + time
    }

    fn service(&self, model: Option<&str>) -> Result<(ServiceName, Declared), Unheld> {
        let (name, declared) = self.catalog.find(model).ok_or(Unheld::NotDeclared)?;
        match declared.failed {
            _ if !declared.comes_up || self.patience.is_zero() => Err(Unheld::NotDeclared),
            Some(why) => Err(Unheld::Failed(why)),
            None => Ok((name, declared)),
        }
    }

    fn take(&self, service: ServiceName, bytes: usize) -> Result<Place<'_>, Unheld> {
        let ask = Event::Ask(service.clone(), bytes);
        if self.core().handle(self.origin.elapsed(), ask) != [Effect::Hold] {
            self.ended(&service, "full");
            return Err(Unheld::Full);
        }
        self.tell(&service);
        let since = Instant::now();
        Ok(Place { holding: self, service, bytes, since, outcome: "gone" })
    }

    /// Counts are told to whoever looks at the metrics at once, to the controller by the desk.
    fn tell(&self, service: &ServiceName) {
        let held = self.core().held(service);
        let labels = labels(service);
        self.metrics.all().gauge(names::GATEWAY_HELD_REQUESTS, &labels).set(held.into());
        self.changed.notify_one();
    }

    fn ended(&self, service: &ServiceName, outcome: &str) {
        let mut labels = labels(service);
        labels.push(("outcome", outcome.to_owned()));
        self.metrics.all().counter(names::GATEWAY_HOLDS, &labels).inc();
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only declared services get here, so a client cannot add any.
fn labels(service: &ServiceName) -> Labels {
    vec![(LABEL_SERVICE, service.to_string())]
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let (holding, service) = (self.holding, &self.service);
        let leave = Event::Leave(service.clone(), self.bytes);
        holding.core().handle(holding.origin.elapsed(), leave);
        holding.tell(service);
        holding.ended(service, self.outcome);
        let time = self.since.elapsed().as_secs_f64();
        let labels = labels(service);
        holding.metrics.all().histogram(names::GATEWAY_HOLD_TIME, &labels).observe(time);
    }
}

// === impl Unheld ===

impl Unheld {
    /// What the client is told; nothing of its own if its model is not one to wait for.
    pub(crate) fn told(self, model: &str) -> Option<PublicError> {
        let (kind, message) = match self {
            Self::NotDeclared => return None,
            Self::Failed(why) => {
                (ErrorKind::Unavailable, format!("The model `{model}` cannot be served: {why}"))
            }
            Self::Full => (ErrorKind::Overloaded, BUSY.into()),
            Self::Late(patience) => (
                ErrorKind::Unavailable,
                format!(
                    "No endpoint of the model `{model}` became ready within {} s.",
                    patience.as_secs()
                ),
            ),
            Self::Deadline => (
                ErrorKind::DeadlineExceeded,
                "The request took longer than the time it was given.".into(),
            ),
        };
        Some(PublicError::new(kind, message))
    }
}
