//! Every other pod of a group: a node, and its visits to the first.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use troupe_actors::guest::visit::{Guest, Parted};
use troupe_runtime::{
    backoff::Backoff,
    discovery::directory,
    error,
    transport::{Class, Connection, Link, PeerAddr},
    wire::guest::Arrival,
};

use super::Part;
use crate::{
    cli::{Failure, say},
    stack::{asked_to_end, membership::Membership, pod::address_towards, roles},
};

impl Part {
    /// Runs until the process is asked to end and its leader has, or the leader is away too long.
    pub(super) async fn follow(self) -> Result<(), Failure> {
        let leader = tokio::select! {
            found = self.find_leader() => found?,
            () = asked_to_end() => return Ok(()),
        };
        let address = address_towards(leader)
            .map_err(|error| Failure::run(format!("no way to {leader}: {error}")))?;
        let (link, _threads) = roles::quic(&self.credentials.identity, (address, 0).into(), &[])?;
        let membership = Membership::embedded().await?;
        let mut node = self.node(&membership, address).await?;
        let guest = Guest {
            registry: membership.registry.clone(),
            keys: membership.keys.clone(),
            arrival: Arrival {
                index: self.pod.index,
                size: self.pod.size,
                node: self.pod.node(),
                launch: directory::to_bytes(&self.launch),
            },
        };
        let ending = AtomicBool::new(false);
        let mut visits = pin!(self.visit(link.as_ref(), &guest, &ending));
        tokio::select! {
            ended = &mut visits => return ended,
            () = node.ended() => return Err(Failure::run("the node has ended")),
            () = asked_to_end() => {}
        }
        // A group's pods are asked together, and its leader finishes requests with our help.
        say("stopping when the leader has");
        ending.store(true, Ordering::Relaxed);
        tokio::select! {
            ended = visits => ended,
            () = tokio::time::sleep(GRACE) => Ok(()),
            () = asked_to_end() => Ok(()),
        }
    }

    /// Visits the leader again and again, until it says never, or is away for too long.
    async fn visit(
        &self,
        link: &dyn Link,
        guest: &Guest,
        ending: &AtomicBool,
    ) -> Result<(), Failure> {
        let (mut since, mut attempt) = (Instant::now(), 0);
        let mut said = String::new();
        loop {
            let why = match self.reach(link).await {
                Ok(connection) => {
                    let mut let_in = false;
                    let parted = guest
                        .visit(connection, || {
                            tracing::info!(index = self.pod.index, "the leader let this pod in");
                            let_in = true;
                        })
                        .await;
                    if let_in {
                        (since, attempt) = (Instant::now(), 0);
                    }
                    if matches!(parted, Parted::Refused(_)) {
                        return Err(Failure::usage(parted));
                    }
                    error::chain(&parted)
                }
                Err(why) => why,
            };
            if ending.load(Ordering::Relaxed) {
                return Ok(());
            }
            if since.elapsed() >= self.patience {
                return Err(self.gave_up(&why));
            }
            if said != why {
                tracing::info!(why, "not with the leader; trying again");
                said = why;
            }
            tokio::time::sleep(Backoff::default().wait(self.pod.index.into(), attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn reach(&self, link: &dyn Link) -> Result<Arc<dyn Connection>, String> {
        let leader = PeerAddr::Quic(self.pod.find_leader(self.port).await?);
        let connection = link.connect(&leader, Class::Control, CONNECT_DEADLINE).await;
        connection.map_err(|error| error.to_string())
    }
}

/// One attempt to connect, so that a leader that comes back is met soon.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// A little longer than the leader's gateway gives its requests.
const GRACE: Duration = Duration::from_secs(65);
