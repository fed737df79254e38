//! A member's front door: takes every connection and hands each conversation to whom it is for.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::{sync::mpsc, task::JoinSet};
use troupe_runtime::{
    transport::{Connection, Conversation, Link, Stream},
    wire::kv::BulkOpen,
};

use super::lines::Inboxes;
use crate::{leader::actor::LeaderMsg, worker::transfer::MOST_TRANSFERS};

/// Where conversations go.
#[derive(Clone)]
pub struct Directions {
    /// The leader, on member 0.
    pub leader: Option<ActorRef<LeaderMsg>>,
    /// Lines of tensors, for the wiring.
    pub desk: mpsc::Sender<(BulkOpen, Stream)>,
    /// Blocks of KV, for whichever rank wants them.
    pub inboxes: Inboxes,
}

/// Accepts until the link is closed. Dropping it drops every connection that it has accepted.
pub async fn run(link: Arc<dyn Link>, directions: Directions) {
    let mut connections = JoinSet::new();
    while let Some(connection) = link.accept().await {
        // Those that have ended; the link bounds how many there can be.
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(connection, directions.clone()));
    }
}

async fn serve(connection: Arc<dyn Connection>, directions: Directions) {
    let mut lines = JoinSet::new();
    while let Ok((what, stream)) = connection.accept().await {
        let refused = match (what, &directions.leader) {
            // A full desk means more lines than any group has: drop, which resets the stream.
            (Conversation::Bulk(line), _) => directions.desk.try_send((line, stream)).is_err(),
            (Conversation::Kv(open), _) => {
                while lines.try_join_next().is_some() {}
                let is_full = lines.len() >= MOST_LINES;
                if !is_full {
                    lines.spawn(directions.inboxes.clone().take(open, stream));
                }
                is_full
            }
            (_, Some(leader)) => {
                let from = connection.peer().node;
                leader.cast(LeaderMsg::Door(what, stream, from)).is_err()
            }
            (_, None) => true,
        };
        if refused {
            tracing::debug!(?what, peer = %connection.peer(), "nobody here takes this");
        }
    }
}

/// Lines of KV over one connection: for every transfer those of some dozens of ranks.
const MOST_LINES: usize = 64 * MOST_TRANSFERS;
