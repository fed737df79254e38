//! Connections to members of other groups: made when they are needed, and kept for the next time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use troupe_runtime::transport::{Class, Connection, Conversation, Link, LinkError, Stream};

/// Connections of one class by address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    link: Arc<dyn Link>,
    class: Class,
    known: Arc<Mutex<BTreeMap<String, Arc<dyn Connection>>>>,
}

impl Connections {
    /// None yet.
    pub fn new(link: Arc<dyn Link>, class: Class) -> Self {
        Self { link, class, known: Arc::default() }
    }

    /// Opens a conversation with whoever listens at `address`. A connection that was kept may have
    /// died meanwhile: then another one is made, once.
    ///
    /// # Errors
    /// [`LinkError`], within twice the deadline for connecting.
    pub async fn open(&self, address: &str, what: Conversation) -> Result<Stream, LinkError> {
        let known = self.locked().get(address).cloned();
        if let Some(connection) = known
            && let Ok(stream) = connection.open(what, CONNECT).await
        {
            return Ok(stream);
        }
        let peer = address.parse().map_err(LinkError::Malformed)?;
        let connection = self.link.connect(&peer, self.class, CONNECT).await?;
        let stream = connection.open(what, CONNECT).await?;
        let mut known = self.locked();
        if known.len() >= MOST_KEPT {
            known.clear();
        }
        known.insert(address.to_owned(), connection);
        Ok(stream)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn Connection>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member that is there answers within this time; with one that is not, a transfer is over.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections that are kept. Beyond that many peers all are made anew; those in use stay.
const MOST_KEPT: usize = 256;
