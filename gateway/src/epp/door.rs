//! Who is let in at the port that proxies ask at: so many connections and no more, each with its
//! handshake behind it where there is TLS. The others wait in the kernel's queue.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{
    guard::Guarded,
    secure::{PickerTls, Secured},
};

/// What accepts.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// The same, and the handshakes that are under way.
struct SecureDoor {
    door: Door,
    tls: PickerTls,
    shaking: JoinSet<Option<(Secured, OwnedSemaphorePermit)>>,
}

/// Connections of proxies, as they come.
pub(super) fn plain(
    listener: TcpListener,
) -> impl Stream<Item = Result<Guarded<TcpStream>, Infallible>> {
    stream::unfold(Door::new(listener), |mut door| async move {
        let (connection, place) = door.next().await;
        Some((Ok(Guarded::new(connection, place, IDLE)), door))
    })
}

/// Connections of proxies that came through their handshake. Those go on side by side, so that one
/// that hangs holds up nobody, and one that fails is nobody's concern but its proxy's.
pub(super) fn secure(
    listener: TcpListener,
    tls: PickerTls,
) -> impl Stream<Item = Result<Guarded<Secured>, Infallible>> {
    let door = SecureDoor { door: Door::new(listener), tls, shaking: JoinSet::new() };
    stream::unfold(door, |mut door| async move {
        let (connection, place) = door.next().await;
        Some((Ok(Guarded::new(connection, place, IDLE)), door))
    })
}

// === impl Door ===

impl Door {
    fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MOST_CONNECTIONS)) }
    }

    /// Safe to cancel.
    async fn next(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                // One that is gone already cannot be set to anything.
                Ok((connection, _)) if connection.set_nodelay(true).is_ok() => {
                    return (connection, place);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept a proxy's connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

// === impl SecureDoor ===

impl SecureDoor {
    async fn next(&mut self) -> (Secured, OwnedSemaphorePermit) {
        loop {
            tokio::select! {
                (connection, place) = self.door.next() => {
                    let tls = self.tls.clone();
                    self.shaking.spawn(async move {
                        Some((tls.shake(connection).await?, place))
                    });
                }
                Some(done) = self.shaking.join_next() => {
                    if let Ok(Some(secured)) = done {
                        return secured;
                    }
                }
            }
        }
    }
}

/// Connections, handshakes included: proxies are few and keep theirs.
const MOST_CONNECTIONS: usize = 256;
/// A connection on which nothing was asked for so long makes room for another one. A proxy makes a
/// new one when it needs it.
const IDLE: Duration = Duration::from_secs(600);
/// After a failed accept (no file handles left, mostly).
const PAUSE: Duration = Duration::from_millis(50);
