//! Connections to members of other groups: made when they are needed, one at a time for each
//! address, and kept for the next time.
//!
//! A transfer begins with a line from each rank here to each rank there, all in the same moment,
//! and they are to share one connection. So the first that needs one makes it and the others wait
//! for what becomes of that: they get the same connection, or the same refusal. If whoever makes it
//! is given up meanwhile, one of those that wait goes on in its place.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use troupe_runtime::transport::{Class, Connection, Conversation, Link, LinkError, Stream};

/// Connections of one class by address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    link: Arc<dyn Link>,
    class: Class,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
}

/// What there is for an address.
#[derive(Debug)]
enum Known {
    /// A connection, alive when it was last used.
    Kept(Arc<dyn Connection>),
    /// Somebody is making one.
    Coming(watch::Receiver<Option<Outcome>>),
}

/// What became of an attempt.
type Outcome = Result<Arc<dyn Connection>, LinkError>;

/// Whose turn it is to do something about an address.
enum Turn {
    Kept(Arc<dyn Connection>),
    Wait(watch::Receiver<Option<Outcome>>),
    Ours(Attempt),
}

/// The one attempt at an address. Dropping it lets another one begin.
struct Attempt {
    all: Connections,
    address: String,
    outcome: watch::Sender<Option<Outcome>>,
}

// === impl Connections ===

impl Connections {
    /// None yet.
    pub fn new(link: Arc<dyn Link>, class: Class) -> Self {
        Self { link, class, known: Arc::default() }
    }

    /// Opens a conversation with whoever listens at `address`. A connection that was kept may have
    /// died meanwhile: then another one is made, once.
    ///
    /// # Errors
    /// [`LinkError`], within four times the deadline for connecting.
    pub async fn open(&self, address: &str, what: Conversation) -> Result<Stream, LinkError> {
        let first = self.connection(address).await?;
        match first.open(what, CONNECT).await {
            Ok(stream) => return Ok(stream),
            Err(_) => self.forget(address, &first),
        }
        self.connection(address).await?.open(what, CONNECT).await
    }

    /// The connection to `address`: the one that is there, or the one that is being made.
    async fn connection(&self, address: &str) -> Outcome {
        let until = Instant::now() + CONNECT;
        loop {
            let mut coming = match self.turn(address) {
                Turn::Kept(connection) => return Ok(connection),
                Turn::Ours(attempt) => return attempt.make().await,
                Turn::Wait(coming) => coming,
            };
            let late = LinkError::Deadline { what: "waiting for a connection", deadline: CONNECT };
            let outcome = match timeout_at(until, coming.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone(),
                // It was given up: the next turn may be ours.
                Ok(Err(_)) => None,
                Err(_) => return Err(late),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn turn(&self, address: &str) -> Turn {
        let mut known = self.locked();
        match known.get(address) {
            Some(Known::Kept(connection)) => Turn::Kept(connection.clone()),
            Some(Known::Coming(coming)) => Turn::Wait(coming.clone()),
            None => {
                let (outcome, coming) = watch::channel(None);
                known.insert(address.to_owned(), Known::Coming(coming));
                let address = address.to_owned();
                Turn::Ours(Attempt { all: self.clone(), address, outcome })
            }
        }
    }

    /// Forgets a connection that is dead, unless there is another one by now.
    fn forget(&self, address: &str, dead: &Arc<dyn Connection>) {
        let mut known = self.locked();
        if let Some(Known::Kept(kept)) = known.get(address)
            && Arc::ptr_eq(kept, dead)
        {
            known.remove(address);
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Attempt ===

impl Attempt {
    async fn make(self) -> Outcome {
        let outcome = self.connect().await;
        let mut known = self.all.locked();
        if known.len() > MOST_KEPT {
            known.retain(|_, one| matches!(one, Known::Coming(_)));
        }
        match &outcome {
            Ok(made) => drop(known.insert(self.address.clone(), Known::Kept(made.clone()))),
            Err(_) => drop(known.remove(&self.address)),
        }
        // Before anybody else can begin: then what is coming there is another's.
        self.outcome.send_replace(Some(outcome.clone()));
        drop(known);
        outcome
    }

    async fn connect(&self) -> Outcome {
        let peer = self.address.parse().map_err(LinkError::Malformed)?;
        self.all.link.connect(&peer, self.all.class, CONNECT).await
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Until it is told what became of it, what is coming there is this one.
        if self.outcome.borrow().is_none() {
            self.all.locked().remove(&self.address);
        }
    }
}

/// A member that is there answers within this time; with one that is not, a transfer is over.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections that are kept. Beyond that many peers all are made anew; those in use stay.
const MOST_KEPT: usize = 256;

#[cfg(test)]
mod tests;
