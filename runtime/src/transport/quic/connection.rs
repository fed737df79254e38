//! An established connection: opening and accepting conversations, and what its end was.

use std::{
    fmt,
    sync::{
        self, Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use quinn::{ConnectionError, VarInt};
use tokio::{
    sync::{Mutex, oneshot},
    time::Instant,
};

use super::{
    CLOSED, farewell,
    lanes::{IncomingLane, Lanes, Laying, Ticket},
    streams::{QuicReceiver, QuicSender},
};
use crate::transport::{
    Class, Connection, Conversation, DecodeMessage, EncodeMessage, Frame, FrameReceiver,
    FrameSender, LinkError, PeerIdentity, Stream,
    error::Abort,
    permits,
    stream::{ReceiveFrames, SendFrames},
};

/// How long a peer may take to say what a stream is about.
const FIRST_FRAME: Duration = Duration::from_secs(1);
/// Where TCP does not get through, it is not tried for each conversation.
const NO_LANES: Duration = Duration::from_secs(60);

/// See [`Connection`].
pub(super) struct QuicConnection {
    held: Arc<Held>,
    class: Class,
    /// Streams whose first frame has not come yet; as many as the peer may open at most.
    unnamed: Mutex<FuturesUnordered<Naming>>,
}

/// What a connection's handle and its streams have in common; it closes with the last of them.
pub(super) struct Held {
    connection: quinn::Connection,
    peer: PeerIdentity,
    /// For errors: who, and where.
    label: String,
    /// It was ended because nothing was heard of the peer.
    silent: AtomicBool,
    /// For classes whose large tensors may go beside it.
    lanes: Option<Arc<Lanes>>,
    /// One could not be laid: until when nobody tries again.
    no_lanes: sync::Mutex<Option<Instant>>,
}

/// A stream whose first frame is read; `None` if it is refused.
type Naming = BoxFuture<'static, Option<(Conversation, Stream)>>;

// === impl QuicConnection ===

impl QuicConnection {
    pub(super) fn new(
        connection: quinn::Connection,
        peer: PeerIdentity,
        class: Class,
        lanes: Option<&Arc<Lanes>>,
    ) -> Self {
        let label = format!("{peer} at {}", connection.remote_address());
        let lanes = lanes.filter(|lanes| lanes.carry(class)).cloned();
        let no_lanes = sync::Mutex::default();
        let silent = AtomicBool::new(false);
        let held = Arc::new(Held { connection, peer, label, silent, lanes, no_lanes });
        Self { held, class, unnamed: Mutex::default() }
    }

    /// What it lives as long as.
    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    fn stream(&self, send: quinn::SendStream, receive: quinn::RecvStream) -> Ends {
        Ends {
            sender: QuicSender::new(send, self.held.clone()),
            receiver: QuicReceiver::new(receive, self.held.clone()),
        }
    }

    fn over(&self, error: &ConnectionError) -> LinkError {
        self.held.over(error)
    }
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> &PeerIdentity {
        &self.held.peer
    }

    fn class(&self) -> Class {
        self.class
    }

    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError> {
        if what.class() != self.class {
            return Err(LinkError::wrong_class(&what, self.class));
        }
        let message = what.encode()?;
        let opened = async {
            let streams = self.held.connection.open_bi().await;
            let (send, receive) = streams.map_err(|error| self.over(&error))?;
            let mut ends = self.stream(send, receive);
            match ends.sender.send(Frame { message, ..Frame::default() }).await {
                Ok(()) => Ok(ends.into_stream()),
                Err(error) => {
                    ends.give_up(Abort::Dropped);
                    Err(error)
                }
            }
        };
        tokio::time::timeout(deadline, opened)
            .await
            .map_err(|_| LinkError::Deadline { what: "opening a conversation", deadline })?
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        let mut unnamed = self.unnamed.lock().await;
        loop {
            tokio::select! {
                Some(named) = unnamed.next() => {
                    if let Some(named) = named {
                        return Ok(named);
                    }
                }
                opened = self.held.connection.accept_bi() => {
                    let (send, receive) = opened.map_err(|error| self.over(&error))?;
                    let ends = self.stream(send, receive);
                    unnamed.push(Box::pin(ends.named(self.held.peer.clone(), self.class)));
                }
            }
        }
    }

    async fn closed(&self) -> LinkError {
        self.over(&self.held.connection.closed().await)
    }

    fn close(&self, reason: &str) {
        self.held.end(CLOSED, reason);
    }
}

impl fmt::Debug for QuicConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicConnection({}, {:?})", self.held.label, self.class)
    }
}

// === impl Held ===

impl Held {
    /// Ends the connection for a reason that the peer is told.
    pub(super) fn end(&self, code: VarInt, why: &str) {
        self.part();
        self.connection.close(code, why.as_bytes());
    }

    /// Datagrams that came so far.
    pub(super) fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Nothing has come for too long: ends it, and says so, for the peer may hear it.
    pub(super) fn give_up(&self) {
        self.silent.store(true, Ordering::Relaxed);
        self.end(CLOSED, "the peer hears nothing of this side");
    }

    /// The connection is about to end, and whatever is on its way, the peer is to hear of that.
    pub(super) fn part(&self) {
        farewell::begin(&self.connection);
    }

    /// Whether large tensors may go by lanes.
    pub(super) fn has_lanes(&self) -> bool {
        let none_until = *self.no_lanes.lock().unwrap_or_else(PoisonError::into_inner);
        self.lanes.is_some() && none_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Has a lane laid to the peer, which has its door at the number of its UDP port.
    pub(super) fn lay(&self) -> Option<Laying> {
        let lanes = self.lanes.as_ref().filter(|_| self.has_lanes())?;
        lanes.lay(&self.peer, self.connection.remote_address())
    }

    /// One could not be laid: for a while, tensors of this connection stay with it.
    pub(super) fn no_lanes(&self, why: &str) {
        let until = Instant::now() + NO_LANES;
        let mut none_until = self.no_lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if none_until.replace(until).is_none() {
            tracing::info!(peer = %self.label, why, "no lane over TCP: tensors go over QUIC");
        }
    }

    /// The lane that the peer has laid under this ticket.
    pub(super) fn lane(&self, ticket: Ticket) -> Option<oneshot::Receiver<IncomingLane>> {
        self.lanes.as_ref()?.take(self.peer.node, ticket)
    }

    /// An ended connection as its users are told.
    pub(super) fn over(&self, error: &ConnectionError) -> LinkError {
        let silent = self.silent.load(Ordering::Relaxed);
        let why = match error {
            ConnectionError::LocallyClosed if silent => explain(&ConnectionError::TimedOut),
            error => explain(error),
        };
        LinkError::Closed { peer: self.label.clone(), why }
    }
}

impl Drop for Held {
    /// quinn closes what nobody holds any more.
    fn drop(&mut self) {
        self.part();
    }
}

/// Both ends of a stream before it is a conversation.
struct Ends {
    sender: QuicSender,
    receiver: QuicReceiver,
}

// === impl Ends ===

impl Ends {
    fn into_stream(self) -> Stream {
        Stream {
            sender: FrameSender::new(Box::new(self.sender)),
            receiver: FrameReceiver::new(Box::new(self.receiver)),
        }
    }

    fn give_up(&mut self, why: Abort) {
        self.sender.reset(why);
        self.receiver.stop(why);
    }

    /// Reads the first frame. A stream that will not be a conversation is reset and `None`.
    async fn named(mut self, peer: PeerIdentity, class: Class) -> Option<(Conversation, Stream)> {
        let refused = match tokio::time::timeout(FIRST_FRAME, self.receiver.receive()).await {
            Err(_) => Abort::Silent,
            Ok(Err(LinkError::Malformed(_))) => Abort::Malformed,
            Ok(Err(_) | Ok(None)) => Abort::Dropped,
            Ok(Ok(Some(frame))) => match Conversation::decode(&frame.message) {
                Ok(what) if what.class() == class && permits(peer.role, &what) => {
                    return Some((what, self.into_stream()));
                }
                Ok(_) => Abort::Forbidden,
                Err(_) => Abort::Malformed,
            },
        };
        if refused != Abort::Dropped {
            tracing::warn!(%peer, why = ?refused, "refuse conversation");
        }
        self.give_up(refused);
        None
    }
}

/// What ended a connection, in words for people.
pub(super) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => {
            "the peer dropped it".into()
        }
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        ConnectionError::ConnectionClosed(close) => match alert(u64::from(close.error_code)) {
            Some(alert) => format!("the peer refuses: {}", refusal(alert, "our")),
            None => format!("the peer ended it: {close}"),
        },
        ConnectionError::TransportError(error) => match alert(u64::from(error.code)) {
            Some(alert) => format!("we refuse: {} ({})", refusal(alert, "its"), error.reason),
            None => error.to_string(),
        },
        ConnectionError::Reset => "the peer is gone, or was restarted".into(),
        ConnectionError::TimedOut => "the peer does not answer".into(),
        ConnectionError::LocallyClosed => "it was closed on this side".into(),
        other => other.to_string(),
    }
}

/// The TLS alert in a transport error's code, if there is one.
fn alert(code: u64) -> Option<u64> {
    code.checked_sub(0x100).filter(|alert| *alert < 0x100)
}

/// What a TLS alert says about the certificate of `whose`.
fn refusal(alert: u64, whose: &str) -> String {
    match alert {
        44 => format!("{whose} certificate is revoked"),
        45 => format!("{whose} certificate has expired, or a clock is wrong"),
        48 => format!("{whose} certificate is of another cluster"),
        42 | 43 | 46 => format!("{whose} certificate is of no use here"),
        116 => format!("{whose} certificate is missing"),
        120 => "no protocol version is common to both".into(),
        _ => format!("TLS alert {alert}"),
    }
}
