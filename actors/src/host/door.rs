//! A process's front door: takes every connection and hands each conversation to the desk whose it
//! is. What a role may open is decided before, by the link
//! ([`troupe_runtime::transport::permits`]).

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;
use troupe_runtime::transport::{Connection, Conversation, Link, PeerIdentity, Stream};

use super::probe::Probed;

/// Answers one kind of conversation.
#[async_trait]
pub trait Desk: Send + Sync {
    /// Answers one to its end. Dropping the future, as when the peer's connection is over or the
    /// process ends, gives the conversation up.
    async fn answer(&self, peer: &PeerIdentity, stream: Stream);
}

/// Which desk answers what; where there is none the conversation is reset.
#[derive(Clone, Default)]
pub struct Desks {
    /// [`Conversation::Join`].
    pub join: Option<Arc<dyn Desk>>,
    /// [`Conversation::Renew`].
    pub renew: Option<Arc<dyn Desk>>,
    /// [`Conversation::Operate`].
    pub operate: Option<Arc<dyn Desk>>,
    /// [`Conversation::Host`].
    pub host: Option<Arc<dyn Desk>>,
    /// [`Conversation::Preflight`].
    pub preflight: Option<Arc<dyn Desk>>,
    /// [`Conversation::Guest`].
    pub guest: Option<Arc<dyn Desk>>,
}

/// Keeps the door until the link is closed. Dropping it gives up every conversation.
pub async fn keep(link: Arc<dyn Link>, desks: Desks) {
    let mut connections = JoinSet::new();
    while let Some(connection) = link.accept().await {
        // Those that have ended; the link bounds how many there can be.
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(connection, desks.clone()));
    }
}

/// Answers what one peer opens; the link bounds how many that are at a time.
async fn serve(connection: Arc<dyn Connection>, desks: Desks) {
    let mut conversations = JoinSet::new();
    while let Ok((what, stream)) = connection.accept().await {
        while conversations.try_join_next().is_some() {}
        let peer = connection.peer().clone();
        match desks.of(what) {
            Some(desk) => {
                conversations.spawn(async move { desk.answer(&peer, stream).await });
            }
            None => tracing::debug!(?what, %peer, "nobody here takes this"),
        }
    }
}

// === impl Desks ===

impl Desks {
    fn of(&self, what: Conversation) -> Option<Arc<dyn Desk>> {
        match what {
            Conversation::Join => self.join.clone(),
            Conversation::Renew => self.renew.clone(),
            Conversation::Operate => self.operate.clone(),
            Conversation::Host => self.host.clone(),
            Conversation::Preflight => self.preflight.clone(),
            Conversation::Guest => self.guest.clone(),
            Conversation::Probe(_) => Some(Arc::new(Probed)),
            // Those are held with members, which have doors of their own.
            Conversation::Generate
            | Conversation::Group
            | Conversation::Status
            | Conversation::Prefill
            | Conversation::Kv(_)
            | Conversation::Cache
            | Conversation::Adapt
            | Conversation::Bulk(_) => None,
        }
    }
}
