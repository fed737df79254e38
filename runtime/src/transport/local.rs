//! The in-process carrier: a network in an object, for one-process serving, tests and simulation.
//!
//! Frames pass as [`bytes::Bytes`] without a copy. Everything else behaves as over QUIC, so that
//! what works here works there: windows are bounded in frames and bytes, a dropped sender resets, a
//! dropped receiver stops the peer, a connection lives as long as its handles and streams, and the
//! same table says who may open what. There are no tasks and no clock: a simulated cluster of
//! thousands of links costs only their queues.

mod pipe;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use self::pipe::{LocalReceiver, LocalSender, Pipe};
use super::{
    Class, Connection, Conversation, FrameReceiver, FrameSender, Link, LinkError, PeerAddr,
    PeerIdentity, Stream, permits,
};

/// Connections that wait to be accepted at one link: as many as peers that start at the same
/// moment; more of them wait in their `connect`.
const ACCEPT_BACKLOG: usize = 256;
/// Conversations that wait to be accepted on one connection; more wait in their `open`.
const OPEN_BACKLOG: usize = 256;

/// A network in which links find each other by number. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct LocalNetwork {
    state: Arc<Mutex<NetworkState>>,
}

#[derive(Debug, Default)]
struct NetworkState {
    last_number: u64,
    links: BTreeMap<u64, Listener>,
}

#[derive(Clone, Debug)]
struct Listener {
    identity: PeerIdentity,
    backlog: mpsc::Sender<Arc<Side>>,
    /// The link's connections, to close them with it; `None` once it is closed.
    sides: Arc<Mutex<Option<Vec<Weak<Side>>>>>,
}

/// One process's end of a [`LocalNetwork`].
pub struct LocalLink {
    network: LocalNetwork,
    number: u64,
    listener: Listener,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Arc<Side>>>,
    closed: watch::Sender<bool>,
}

/// One end of a connection.
#[derive(Debug)]
struct LocalConnection(Arc<Side>);

/// What a connection's handles and streams at one end share; the connection ends with it.
#[derive(Debug)]
struct Side {
    peer: PeerIdentity,
    class: Class,
    /// To the other side's `accepted`.
    opened: mpsc::Sender<Opened>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Opened>>,
    /// Set once, by whoever closes first; shared by both sides.
    over: Arc<watch::Sender<Option<String>>>,
}

/// A conversation on its way to the other side.
#[derive(Debug)]
struct Opened {
    what: Conversation,
    to_accepter: Arc<Pipe>,
    to_opener: Arc<Pipe>,
}

// === impl LocalNetwork ===

impl LocalNetwork {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new link; peers see it as `identity`.
    pub fn link(&self, identity: PeerIdentity) -> Arc<LocalLink> {
        let (backlog, incoming) = mpsc::channel(ACCEPT_BACKLOG);
        let sides = Arc::new(Mutex::new(Some(Vec::new())));
        let listener = Listener { identity, backlog, sides };
        let mut state = locked(&self.state);
        state.last_number += 1;
        let number = state.last_number;
        state.links.insert(number, listener.clone());
        Arc::new(LocalLink {
            network: self.clone(),
            number,
            listener,
            incoming: tokio::sync::Mutex::new(incoming),
            closed: watch::Sender::new(false),
        })
    }
}

// === impl LocalLink ===

#[async_trait]
impl Link for LocalLink {
    fn address(&self) -> PeerAddr {
        PeerAddr::Local(self.number)
    }

    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        let unreachable =
            |why: &str| LinkError::Unreachable { peer: peer.clone(), why: why.into() };
        let PeerAddr::Local(number) = peer else {
            return Err(unreachable("an in-process link reaches local:// addresses only"));
        };
        let there = locked(&self.network.state)
            .links
            .get(number)
            .cloned()
            .ok_or_else(|| unreachable("nobody listens there"))?;
        let (mine, theirs) = Side::pair(&self.listener.identity, &there.identity, class);
        if !self.listener.remember(&mine) {
            return Err(unreachable("this link is closed"));
        }
        if !there.remember(&theirs) {
            return Err(unreachable("it was closed meanwhile"));
        }
        tokio::time::timeout(deadline, there.backlog.send(theirs))
            .await
            .map_err(|_| LinkError::Deadline { what: "connecting", deadline })?
            .map_err(|_| unreachable("it was closed meanwhile"))?;
        Ok(Arc::new(LocalConnection(mine)))
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let mut closed = self.closed.subscribe();
        let mut incoming = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return None,
            incoming = self.incoming.lock() => incoming,
        };
        let side = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return None,
            side = incoming.recv() => side?,
        };
        Some(Arc::new(LocalConnection(side)))
    }

    async fn close(&self, reason: &str) {
        self.shut(reason);
    }
}

impl LocalLink {
    fn shut(&self, reason: &str) {
        locked(&self.network.state).links.remove(&self.number);
        self.closed.send_replace(true);
        let sides = locked(&self.listener.sides).take().unwrap_or_default();
        for side in sides.iter().filter_map(Weak::upgrade) {
            side.end(reason);
        }
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.shut("the link was dropped");
    }
}

impl fmt::Debug for LocalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalLink({})", self.number)
    }
}

// === impl Listener ===

impl Listener {
    /// Keeps track of a connection, so that closing the link closes it too. False once it did.
    fn remember(&self, side: &Arc<Side>) -> bool {
        let mut sides = locked(&self.sides);
        let Some(sides) = sides.as_mut() else { return false };
        sides.retain(|side| side.strong_count() > 0);
        sides.push(Arc::downgrade(side));
        true
    }
}

// === impl LocalConnection ===

#[async_trait]
impl Connection for LocalConnection {
    fn peer(&self) -> &PeerIdentity {
        &self.0.peer
    }

    fn class(&self) -> Class {
        self.0.class
    }

    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError> {
        let side = &self.0;
        if what.class() != side.class {
            return Err(LinkError::wrong_class(&what, side.class));
        }
        if let Some(error) = side.error() {
            return Err(error);
        }
        let (to_accepter, to_opener) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
        let stream = side.stream(to_accepter.clone(), to_opener.clone());
        let sent = tokio::time::timeout(
            deadline,
            side.opened.send(Opened { what, to_accepter, to_opener }),
        );
        match sent.await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(_)) => Err(side.error().unwrap_or(LinkError::Reset)),
            Err(_) => Err(LinkError::Deadline { what: "opening a conversation", deadline }),
        }
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        let side = &self.0;
        let mut over = side.over.subscribe();
        loop {
            let mut accepted = tokio::select! {
                accepted = side.accepted.lock() => accepted,
                () = ended(&mut over) => return Err(side.closed_error()),
            };
            let opened = tokio::select! {
                biased;
                () = ended(&mut over) => return Err(side.closed_error()),
                opened = accepted.recv() => opened.ok_or_else(|| side.closed_error())?,
            };
            if permits(side.peer.role, &opened.what) {
                let stream = side.stream(opened.to_opener, opened.to_accepter);
                return Ok((opened.what, stream));
            }
            tracing::warn!(peer = %side.peer, what = ?opened.what, "refuse conversation");
            opened.refuse();
        }
    }

    async fn closed(&self) -> LinkError {
        let mut over = self.0.over.subscribe();
        // The sending half lives in `self`, so waiting cannot fail.
        let _ = over.wait_for(Option::is_some).await;
        self.0.closed_error()
    }

    fn close(&self, reason: &str) {
        self.0.end(reason);
    }
}

// === impl Side ===

impl Side {
    /// Both ends of a new connection: the one at `here`, then the one at `there`.
    fn pair(here: &PeerIdentity, there: &PeerIdentity, class: Class) -> (Arc<Self>, Arc<Self>) {
        let over = Arc::new(watch::Sender::new(None));
        let (to_there, at_there) = mpsc::channel(OPEN_BACKLOG);
        let (to_here, at_here) = mpsc::channel(OPEN_BACKLOG);
        let side = |peer: &PeerIdentity, opened, accepted| {
            Arc::new(Self {
                peer: peer.clone(),
                class,
                opened,
                accepted: tokio::sync::Mutex::new(accepted),
                over: over.clone(),
            })
        };
        (side(there, to_there, at_here), side(here, to_here, at_there))
    }

    fn stream(self: &Arc<Self>, out: Arc<Pipe>, back: Arc<Pipe>) -> Stream {
        Stream {
            sender: FrameSender::new(Box::new(LocalSender::new(out, self.clone()))),
            receiver: FrameReceiver::new(Box::new(LocalReceiver::new(back, self.clone()))),
        }
    }

    /// Ends the connection for both sides; the first reason stays.
    fn end(&self, reason: &str) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            if first {
                *over = Some(reason.to_owned());
            }
            first
        });
    }

    /// Why it is over, if it is.
    fn error(&self) -> Option<LinkError> {
        let why = self.over.borrow().clone()?;
        Some(LinkError::Closed { peer: self.peer.to_string(), why })
    }

    fn closed_error(&self) -> LinkError {
        let why = || "the connection was dropped".to_owned();
        self.error()
            .unwrap_or_else(|| LinkError::Closed { peer: self.peer.to_string(), why: why() })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.end("the connection was dropped");
    }
}

/// Returns when a connection is over, with nothing: what the wait itself gives back holds a lock,
/// and whoever asks for the reason takes it again. Between the two somebody may wait to end the
/// connection, and then neither goes on.
async fn ended(over: &mut watch::Receiver<Option<String>>) {
    let _ = over.wait_for(Option::is_some).await;
}

// === impl Opened ===

impl Opened {
    fn refuse(self) {
        self.to_accepter.stop(super::error::Abort::Forbidden);
        self.to_opener.abort(super::error::Abort::Forbidden);
    }
}

/// A mutex whose holder cannot leave it half changed: no code that may panic runs under it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
