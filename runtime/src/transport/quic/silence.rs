//! Peers of whom nothing is heard any more, and peers who will hear nothing any more.
//!
//! quinn itself ends a silent connection without a word, and then the other end, if it still hears
//! of this one, has to find out for itself: where only one way of a network is cut, it takes both
//! one after the other. So the connections are looked at here, a little before that, and closed
//! aloud. And looks are counted, not time: a process that stood still for a while reads first what
//! came meanwhile, and takes nobody for dead whose words it had no time for.
//!
//! The other half is for a process that was killed, which cannot say so. Whoever shares its
//! identity and takes over its port answers its peers with the reset that only this identity can
//! give, and they know at the next packet that they send, not when they have waited long enough.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use quinn::{Endpoint, EndpointConfig};
use tokio::time::MissedTickBehavior;

use super::{admitted::Admitted, connection::Held, runtime::OnHandle, tuning};

/// Looks in the time after which a silent peer is gone.
const LOOKS: u32 = 10;

/// What was heard of one connection when it was looked at.
pub(super) struct Watched {
    held: Weak<Held>,
    heard: u64,
    /// Looks since that.
    silent: u32,
}

/// How much longer than this watch quinn waits: it is left to quinn only if the watch stands still.
pub(super) fn backstop(idle: Duration) -> Duration {
    idle.saturating_add(idle / 3)
}

/// Ends the connections of which nothing was heard for `idle`, for as long as it is polled.
pub(super) async fn watch(admitted: Arc<Admitted>, idle: Duration) {
    let mut looks = tokio::time::interval((idle / LOOKS).max(Duration::from_millis(1)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for held in admitted.look() {
            held.give_up();
        }
    }
}

/// Answers for a process that had this address and identity and is gone, for a while.
pub(super) async fn answer_for(address: SocketAddr, config: EndpointConfig, lasts: Duration) {
    let socket = match tuning::socket(address) {
        Ok(socket) => socket,
        // Its peers wait until they notice by themselves.
        Err(error) => return tracing::debug!(%address, %error, "nobody answers for who is gone"),
    };
    let runtime = Arc::new(OnHandle(tokio::runtime::Handle::current()));
    match Endpoint::new(config, None, socket, runtime) {
        Ok(endpoint) => {
            tokio::time::sleep(lasts).await;
            drop(endpoint);
        }
        Err(error) => tracing::debug!(%address, %error, "nobody answers for who is gone"),
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(held: &Arc<Held>) -> Self {
        Self { held: Arc::downgrade(held), heard: 0, silent: 0 }
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.upgrade()
    }

    pub(super) fn is_over(&self) -> bool {
        self.held.strong_count() == 0
    }

    /// Looks, and says whether it has been silent for too long.
    pub(super) fn look(&mut self, held: &Held) -> bool {
        let heard = held.heard();
        self.silent = if heard == self.heard { self.silent.saturating_add(1) } else { 0 };
        self.heard = heard;
        self.silent == LOOKS
    }
}
