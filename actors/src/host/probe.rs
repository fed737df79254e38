//! How far away this host is, for whoever of the cluster asks: answers pings with the clock, and
//! counts bytes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use troupe_runtime::{
    transport::{LinkError, PeerIdentity, Stream},
    wire::host::{ProbeDown, ProbeUp},
};

use super::Desk;

/// Answers [`troupe_runtime::transport::Conversation::Probe`].
pub struct Probed;

#[async_trait]
impl Desk for Probed {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = answer(stream).await {
            tracing::debug!(%peer, %error, "a probe broke off");
        }
    }
}

async fn answer(mut stream: Stream) -> Result<(), LinkError> {
    let mut taken = 0;
    // Ends with the connection at the latest, which its keep-alive bounds.
    while let Some((up, bytes)) = stream.receiver.next_with_tensor::<ProbeUp>().await? {
        let down = match up {
            ProbeUp::Ping => ProbeDown::Pong(now_us()),
            ProbeUp::Taken => ProbeDown::Taken(taken),
            ProbeUp::Load => {
                taken += bytes.len() as u64;
                continue;
            }
        };
        stream.sender.send(&down, ANSWER).await?;
    }
    stream.sender.finish()
}

/// This host's clock, in microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}

/// A peer that does not take an answer for so long is gone.
const ANSWER: Duration = Duration::from_secs(5);
