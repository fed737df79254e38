//! Connecting with patience: the one policy for peers that may not be there yet.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Class, Connection, Link, LinkError, PeerAddr};
use crate::backoff::Backoff;

/// One attempt takes no longer than this, so that a peer that comes back is met soon.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Whom to connect to, and for how long to try.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For all attempts together.
    pub deadline: Duration,
    /// Between them.
    pub backoff: Backoff,
    /// Spreads this caller's waits from those of others.
    pub seed: u64,
}

/// Connects, trying again after every failure but one that cannot heal.
///
/// # Errors
/// The last attempt's error, within the deadline.
pub async fn connect_with_retry(
    link: &dyn Link,
    peer: &PeerAddr,
    class: Class,
    patience: &Patience,
) -> Result<Arc<dyn Connection>, LinkError> {
    let start = Instant::now();
    let mut attempt = 0;
    loop {
        let left = patience.deadline.saturating_sub(start.elapsed());
        let error = match link.connect(peer, class, left.min(ATTEMPT)).await {
            Ok(connection) => return Ok(connection),
            Err(error @ LinkError::Forbidden(_)) => return Err(error),
            Err(error) => error,
        };
        let wait = patience.backoff.wait(patience.seed, attempt);
        if start.elapsed() + wait >= patience.deadline {
            return Err(error);
        }
        tracing::debug!(%peer, attempt, ?wait, error = %error, "connect again");
        tokio::time::sleep(wait).await;
        attempt = attempt.saturating_add(1);
    }
}
