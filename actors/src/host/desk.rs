//! Answers what control hosts ask of this host: its members' logs, what it is and has, and how far
//! away others are from here.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use troupe_runtime::{
    error::chain,
    transport::{Link, LinkError, PeerIdentity, Stream},
    wire::host::{HostDown, HostUp, MeasureAsk},
};

use super::{Desk, Facts, measure};
use crate::node::logs::Reader;

/// Answers [`troupe_runtime::transport::Conversation::Host`].
#[derive(Debug)]
pub struct HostDesk {
    logs: Reader,
    facts: Facts,
    /// The way to other hosts.
    link: Arc<dyn Link>,
    /// Two measurements at a time would measure each other.
    measuring: Semaphore,
}

// === impl HostDesk ===

impl HostDesk {
    /// A desk of a host with these logs and facts, which reaches others over this link.
    pub fn new(logs: Reader, facts: Facts, link: Arc<dyn Link>) -> Self {
        Self { logs, facts, link, measuring: Semaphore::new(1) }
    }

    async fn converse(&self, mut stream: Stream) -> Result<(), LinkError> {
        let down = match stream.receiver.expect::<HostUp>(PATIENCE).await? {
            HostUp::Logs(ask) => {
                self.logs.tell(&ask, &mut stream.sender).await?;
                return stream.sender.finish();
            }
            HostUp::Facts(ask) => match self.facts.look(ask.model).await {
                Ok(facts) => HostDown::Facts(Box::new(facts)),
                Err(why) => HostDown::refused(why),
            },
            HostUp::Measure(ask) => self.measure(&ask).await,
        };
        stream.sender.send(&down, PATIENCE).await?;
        stream.sender.finish()
    }

    async fn measure(&self, ask: &MeasureAsk) -> HostDown {
        let Ok(_alone) = self.measuring.try_acquire() else {
            return HostDown::refused("it measures for another preflight; try again later");
        };
        match ask.door.parse() {
            Ok(door) => match measure::measure(&*self.link, &door, ask.node).await {
                Ok(way) => HostDown::Way(way),
                Err(error) => HostDown::refused(chain(&error)),
            },
            Err(why) => HostDown::refused(why),
        }
    }
}

#[async_trait]
impl Desk for HostDesk {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = self.converse(stream).await {
            tracing::debug!(%peer, %error, "a control host's question broke off");
        }
    }
}

/// How long a control host may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(30);
