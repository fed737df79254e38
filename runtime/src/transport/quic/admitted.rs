//! Who is connected to a link, and who may not be although its certificate is good: revoked
//! identities.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    connection::{Held, QuicConnection},
    handshake::REFUSED,
    silence::Watched,
};
use crate::{id::NodeId, transport::Connection};

/// A link's book of peers.
pub(super) struct Admitted {
    cluster: String,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Those that are turned away, and why.
    away: BTreeMap<NodeId, String>,
    /// Those that are here; a connection that is over leaves a dead entry until the next enters.
    here: Vec<(NodeId, Watched)>,
}

impl Admitted {
    pub(super) fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), book: Mutex::default() }
    }

    /// Which cluster one is let into.
    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Why this one is turned away, if it is.
    pub(super) fn refusal(&self, node: NodeId) -> Option<String> {
        self.book().away.get(&node).map(|why| refusal(why))
    }

    /// Writes a connection into the book, or ends it.
    pub(super) fn enter(&self, connection: &QuicConnection) -> Result<(), String> {
        let (node, held) = (connection.peer().node, connection.held());
        let mut book = self.book();
        if let Some(why) = book.away.get(&node).map(|why| refusal(why)) {
            held.end(REFUSED, &why);
            return Err(why);
        }
        book.here.retain(|(_, watched)| !watched.is_over());
        book.here.push((node, Watched::new(held)));
        Ok(())
    }

    /// Looks at all connections and returns those that have been silent for too long.
    pub(super) fn look(&self) -> Vec<Arc<Held>> {
        let mut book = self.book();
        let silent = book.here.iter_mut().filter_map(|(_, watched)| {
            let held = watched.held()?;
            watched.look(&held).then_some(held)
        });
        silent.collect()
    }

    /// Has all that are here hear the word that follows: the link closes.
    pub(super) fn part(&self) {
        for held in self.book().here.iter().filter_map(|(_, watched)| watched.held()) {
            held.part();
        }
    }

    /// See [`super::QuicLink::turn_away`].
    pub(super) fn turn_away(&self, away: BTreeMap<NodeId, String>) {
        let mut book = self.book();
        for (node, watched) in &book.here {
            if let (Some(why), Some(held)) = (away.get(node), watched.held()) {
                held.end(REFUSED, &refusal(why));
            }
        }
        book.away = away;
    }

    /// Nothing that may panic runs while it is held.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(why: &str) -> String {
    format!("this identity is revoked: {why}")
}
