//! A lease that outlives the store's memory of it.
//!
//! The core owns the keys: what was once put is put again whenever the store may have lost it,
//! under the same lease if it lives and under a new one if not. One task carries out what the core
//! wants, one request at a time, so that a put can never overtake a grant. Each write compares the
//! store's incarnation; where it is another one, all keys are put again in that.

pub(super) mod core;
pub(super) mod course;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use self::{
    core::{Core, Effect, Event},
    course::Course,
};
use super::{
    Incarnation, Lease, RegistryError, incarnation,
    store::{By, Hold, Store},
};

/// Commands that wait for the task: each caller waits for its answer, so there are never more than
/// callers, and the task reads one after the other.
const COMMANDS: usize = 16;

/// Starts a lease. Its task ends within the request under way and a revocation of the lease's drop.
pub(super) async fn start<S: Store>(
    store: S,
    ttl: Duration,
    incarnation: &str,
) -> Result<Arc<dyn Lease>, RegistryError> {
    let mut keeper = Keeper::new(store, ttl, incarnation);
    keeper.carry_out(vec![Effect::Grant]).await?;
    Ok(keeper.begin())
}

/// Starts a lease that is granted as soon as the store answers.
pub(super) fn start_late<S: Store>(store: S, ttl: Duration, incarnation: &str) -> Arc<dyn Lease> {
    Keeper::new(store, ttl, incarnation).begin()
}

/// Request timeouts that a caller waits: the request that is under way, a grant, its own, and one
/// to spare.
const PATIENCE: u32 = 4;

/// The owner's end.
struct Kept {
    commands: mpsc::Sender<Command>,
    standing: Arc<Mutex<Standing>>,
    patience: Duration,
}

/// What an owner may ask without waiting.
struct Standing {
    confirmed: Instant,
    held: BTreeSet<String>,
}

/// What an owner asks of the task, and where the answer goes: for a claim whether it is ours.
struct Command {
    ask: Ask,
    answer: oneshot::Sender<Result<bool, RegistryError>>,
}

enum Ask {
    Hold(Hold),
    Delete(String),
    Revoke,
}

/// The task: the core's hands.
struct Keeper<S: Store> {
    core: Core,
    store: S,
    renewal: S::Renewal,
    /// The key of the store's incarnation.
    incarnation: String,
    standing: Arc<Mutex<Standing>>,
}

// === impl Keeper ===

impl<S: Store> Keeper<S> {
    fn new(store: S, ttl: Duration, incarnation: &str) -> Self {
        let standing = Standing { confirmed: Instant::now(), held: BTreeSet::new() };
        Self {
            core: Core::new(ttl, rand::random()),
            store,
            renewal: S::Renewal::default(),
            incarnation: incarnation.to_owned(),
            standing: Arc::new(Mutex::new(standing)),
        }
    }

    fn begin(self) -> Arc<dyn Lease> {
        let patience = self.store.request_timeout() * PATIENCE;
        let standing = self.standing.clone();
        let (commands, received) = mpsc::channel(COMMANDS);
        // Not aborted with its owner, because the revocation comes after that.
        tokio::spawn(self.run(received));
        Arc::new(Kept { commands, standing, patience })
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut due = self.next_due();
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {
                    let effects = self.core.handle(Event::Due);
                    if let Err(error) = self.carry_out(effects).await {
                        // Expected while the store is away; its owner sees it in since_confirmed.
                        tracing::debug!(%error, "keep a lease alive");
                    }
                    due = self.next_due();
                }
                command = commands.recv() => {
                    let Some(Command { ask, answer }) = command else { break };
                    let failures = self.core.failures;
                    let last = matches!(ask, Ask::Revoke);
                    let outcome = self.answer(ask).await;
                    if self.core.failures > failures {
                        due = self.next_due();
                    }
                    // A caller that is gone no longer wants the answer.
                    let _ = answer.send(outcome);
                    if last {
                        return;
                    }
                }
            }
        }
        if let Err(error) = self.answer(Ask::Revoke).await {
            tracing::debug!(%error, "revoke a lease; its keys go when its ttl has passed");
        }
    }

    fn next_due(&self) -> Instant {
        Instant::now() + self.core.due_after()
    }

    async fn answer(&mut self, ask: Ask) -> Result<bool, RegistryError> {
        match ask {
            Ask::Hold(hold) => {
                let asked = hold.clone();
                let effects = self.core.handle(Event::Hold(hold));
                let outcome = self.carry_out(effects).await;
                let held = self.core.held_after(&asked, outcome.is_ok());
                self.publish(None);
                outcome.map(|()| held)
            }
            Ask::Delete(key) => {
                let effects = self.core.handle(Event::Delete(key));
                self.carry_out(effects).await.map(|()| true)
            }
            Ask::Revoke => {
                let effects = self.core.handle(Event::Revoke);
                self.carry_out(effects).await.map(|()| true)
            }
        }
    }

    /// Does what the core wants and everything that follows from it, up to the first failure.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), RegistryError> {
        let mut course = Course::new(effects);
        while let Some(effect) = course.next(&mut self.core) {
            // The time of asking is what counts: the store's ttl began no earlier.
            let asked = Instant::now();
            let performed = self.perform(effect.clone()).await;
            let confirms = course.performed(&mut self.core, effect, performed);
            self.publish(confirms.then_some(asked));
        }
        self.publish(None);
        course.outcome()
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Event>, RegistryError> {
        Ok(match effect {
            Effect::Grant => {
                let lease = self.store.grant(self.core.ttl).await?;
                self.renewal = S::Renewal::default();
                Some(Event::Granted(lease))
            }
            Effect::Open => {
                Some(Event::Opened(incarnation::open(&self.store, &self.incarnation).await?))
            }
            Effect::Renew(lease) => {
                Some(Event::Renewed(self.store.renew(&mut self.renewal, lease).await?))
            }
            Effect::Ensure(lease, hold) => {
                let held = self.store.ensure(lease, &hold, self.life()?).await?;
                Some(Event::Ensured(hold.key, held))
            }
            Effect::Release(lease, key) => {
                let released = self.store.release(lease, &key, self.life()?).await?;
                Some(Event::Released(key, released))
            }
            Effect::Revoke(lease) => {
                self.store.revoke(lease).await?;
                Some(Event::Revoked(lease))
            }
        })
    }

    /// The life of the store that the core's writes are for. It asks for none before it knows it.
    fn life(&self) -> Result<&Incarnation, RegistryError> {
        let unknown = || RegistryError::Refused("the store's incarnation was not read".into());
        self.core.life.as_ref().ok_or_else(unknown)
    }

    /// Lets the owner see how it stands.
    fn publish(&self, confirmed: Option<Instant>) {
        let mut standing = lock(&self.standing);
        standing.confirmed = confirmed.unwrap_or(standing.confirmed);
        standing.held = self.core.held();
    }
}

// === impl Kept ===

impl Kept {
    async fn ask(&self, ask: Ask) -> Result<bool, RegistryError> {
        let over = || RegistryError::Refused("the lease has been revoked".into());
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.commands.send(Command { ask, answer }).await.map_err(|_| over())?;
            answered.await.map_err(|_| over())?
        };
        tokio::time::timeout(self.patience, asking).await.unwrap_or_else(|_| {
            Err(RegistryError::Unreachable {
                endpoints: "this lease's store".into(),
                why: format!("its keeper was busy for {:?}", self.patience),
            })
        })
    }
}

#[async_trait]
impl Lease for Kept {
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), RegistryError> {
        let hold = Hold { key: key.into(), value, by: By::Put };
        self.ask(Ask::Hold(hold)).await.map(|_| ())
    }

    async fn claim(&self, key: &str, value: Vec<u8>) -> Result<bool, RegistryError> {
        self.ask(Ask::Hold(Hold { key: key.into(), value, by: By::Claim })).await
    }

    async fn claim_term(&self, key: &str, value: Vec<u8>) -> Result<bool, RegistryError> {
        self.ask(Ask::Hold(Hold { key: key.into(), value, by: By::Term })).await
    }

    fn holds(&self, key: &str) -> bool {
        lock(&self.standing).held.contains(key)
    }

    async fn delete(&self, key: &str) -> Result<(), RegistryError> {
        self.ask(Ask::Delete(key.into())).await.map(|_| ())
    }

    async fn revoke(&self) -> Result<(), RegistryError> {
        self.ask(Ask::Revoke).await.map(|_| ())
    }

    fn since_confirmed(&self) -> Duration {
        lock(&self.standing).confirmed.elapsed()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("since_confirmed", &self.since_confirmed()).finish()
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}
