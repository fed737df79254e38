//! Lanes: TLS over TCP beside a QUIC connection, for the large tensors of its conversations.
//!
//! QUIC costs a processor several times what TCP does: packets are sealed and acknowledged one by
//! one in this process, where TCP leaves cutting and acknowledging to the kernel and the card. For
//! messages and activations that is nothing; for gigabytes of KV it is the limit. So a conversation
//! whose class may has its large tensors go by a lane of its own, while its messages, its end, its
//! aborts and the peer's signs of life stay with QUIC:
//!
//! ```text
//! who sends                                        who receives
//!   a large tensor or two                  stream->
//!   TLS 1.3 both ways, then a ticket         lane->  waits in the lobby, for a while
//!                                          <-lane    welcome
//!   word: that ticket                      stream->  takes it out of the lobby
//!   message, "its tensor comes apart"      stream->
//!   the tensor's bytes                       lane->
//! ```
//! Nothing waits for a lane: until it is there, and where TCP does not get through, tensors stay on
//! the stream. Both sides have proven who they are twice, and it must be the same peer. The door is
//! TCP at the number of the link's UDP port; if only that will do and it is taken, there are none.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{QuicError, SERVER_NAME, admitted::Admitted, tuning};
use crate::{
    id::NodeId,
    transport::{
        Class, PeerIdentity,
        tls::{self, Guests, Identity},
    },
};

/// A link's lanes: how they are laid, and those that have come and wait.
pub(super) struct Lanes {
    classes: Vec<Class>,
    /// How long the laying may take.
    patience: Duration,
    keys: RwLock<Keys>,
    admitted: Arc<Admitted>,
    lobby: Mutex<BTreeMap<(NodeId, Ticket), Waiting>>,
    /// Lanes that may still go out, and come in.
    out: Arc<Semaphore>,
    room: Arc<Semaphore>,
    laid: AtomicU64,
    runtime: Handle,
}

struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// One that has come. The task that let it in ends, and with it the entry, when it is taken.
struct Waiting {
    lane: oneshot::Receiver<IncomingLane>,
    _until_taken: oneshot::Sender<()>,
}

/// Tells a lane to a conversation: drawn anew for each, and told to its peer alone.
pub(super) type Ticket = u128;

/// One that is being laid.
pub(super) type Laying = JoinSet<Result<(Ticket, OutgoingLane), String>>;

/// The end that sends.
pub(super) struct OutgoingLane {
    stream: client::TlsStream<TcpStream>,
    laid: Instant,
    _place: OwnedSemaphorePermit,
}

/// The end that receives. rustls asks for four kilobytes at a time: hence the buffer.
pub(super) struct IncomingLane {
    stream: server::TlsStream<BufReader<TcpStream>>,
    _place: OwnedSemaphorePermit,
}

// === impl Lanes ===

impl Lanes {
    pub(super) fn new(
        identity: &Identity,
        classes: &[Class],
        patience: Duration,
        admitted: Arc<Admitted>,
        runtime: Handle,
    ) -> Result<Self, QuicError> {
        Ok(Self {
            classes: classes.to_vec(),
            patience,
            keys: RwLock::new(Keys::of(identity)?),
            admitted,
            lobby: Mutex::default(),
            out: Arc::new(Semaphore::new(MOST)),
            room: Arc::new(Semaphore::new(MOST)),
            laid: AtomicU64::new(0),
            runtime,
        })
    }

    /// Whether conversations of this class have them.
    pub(super) fn carry(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    /// Shows this certificate from now on.
    pub(super) fn present(&self, identity: &Identity) -> Result<(), QuicError> {
        let keys = Keys::of(identity)?;
        // Nothing under the lock can panic.
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// How many were taken by a conversation here so far.
    pub(super) fn laid(&self) -> u64 {
        self.laid.load(Ordering::Relaxed)
    }

    /// Takes the one of this ticket out of the lobby: it comes from this very peer.
    pub(super) fn take(
        &self,
        peer: NodeId,
        ticket: Ticket,
    ) -> Option<oneshot::Receiver<IncomingLane>> {
        let Waiting { lane, .. } = self.lobby().remove(&(peer, ticket))?;
        self.laid.fetch_add(1, Ordering::Relaxed);
        Some(lane)
    }

    /// Begins to lay one to a peer that a connection has shown to be there, unless there are
    /// enough.
    pub(super) fn lay(
        self: &Arc<Self>,
        peer: &PeerIdentity,
        address: SocketAddr,
    ) -> Option<Laying> {
        let place = self.out.clone().try_acquire_owned().ok()?;
        let (lanes, peer) = (self.clone(), peer.clone());
        let laid = async move {
            let laid = timeout(lanes.patience, lanes.reach(&peer, address)).await;
            let late = |_| Err(format!("it took longer than {:?}", lanes.patience));
            let (ticket, stream) = laid.unwrap_or_else(late)?;
            Ok((ticket, OutgoingLane { stream, laid: Instant::now(), _place: place }))
        };
        let mut laying = JoinSet::new();
        laying.spawn_on(laid, &self.runtime);
        Some(laying)
    }

    async fn reach(
        &self,
        peer: &PeerIdentity,
        address: SocketAddr,
    ) -> Result<(Ticket, client::TlsStream<TcpStream>), String> {
        let said = |error: io::Error| error.to_string();
        let stream = TcpStream::connect(address).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).client.clone();
        let name = SERVER_NAME.try_into().map_err(|_| "its name is none".to_owned())?;
        let mut stream = TlsConnector::from(keys).connect(name, stream).await.map_err(said)?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(LANE_ALPN) {
            return Err("it speaks another protocol".into());
        }
        let chain = session.peer_certificates().unwrap_or_default();
        let other = tls::name_of(chain).map_err(|error| error.to_string())?;
        if other != *peer {
            return Err(format!("{other} is there and not {peer}"));
        }
        let ticket = rand::random::<Ticket>();
        stream.write_all(&ticket.to_le_bytes()).await.map_err(said)?;
        stream.flush().await.map_err(said)?;
        match stream.read_u8().await.map_err(said)? {
            WELCOME => Ok((ticket, stream)),
            other => Err(format!("it answers {other}")),
        }
    }

    async fn let_in(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            return tracing::debug!(%from, "there are enough lanes");
        };
        let (peer, ticket, stream) = match timeout(self.patience, self.meet(stream)).await {
            Ok(Ok(met)) => met,
            Ok(Err(why)) => return tracing::warn!(%from, why, "refuse lane"),
            Err(_) => return tracing::warn!(%from, why = "no ticket in time", "refuse lane"),
        };
        let mut lane = IncomingLane { stream, _place: place };
        let (hand, handed) = oneshot::channel();
        let (until_taken, taken) = oneshot::channel();
        // Before it is welcomed: then its peer may speak of it at once.
        let waiting = Waiting { lane: handed, _until_taken: until_taken };
        self.lobby().insert((peer, ticket), waiting);
        let welcomed = timeout(self.patience, async {
            lane.stream.write_u8(WELCOME).await?;
            lane.stream.flush().await
        });
        if matches!(welcomed.await, Ok(Ok(()))) && hand.send(lane).is_ok() {
            // Whichever it is: it waits no longer.
            let _ = timeout(IN_THE_LOBBY, taken).await;
        }
        self.lobby().remove(&(peer, ticket));
    }

    /// The handshake, and which lane it is to be.
    async fn meet(
        &self,
        stream: TcpStream,
    ) -> Result<(NodeId, Ticket, server::TlsStream<BufReader<TcpStream>>), String> {
        let said = |error: io::Error| error.to_string();
        stream.set_nodelay(true).map_err(said)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).server.clone();
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut stream = TlsAcceptor::from(keys).accept(stream).await.map_err(said)?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(LANE_ALPN) {
            return Err("it speaks another protocol".into());
        }
        let chain = session.peer_certificates().unwrap_or_default();
        let peer = tls::name_of(chain).map_err(|error| error.to_string())?.node;
        if let Some(why) = self.admitted.refusal(peer) {
            return Err(why);
        }
        let ticket = stream.read_u128_le().await.map_err(said)?;
        Ok((peer, ticket, stream))
    }

    /// Nothing that may panic runs while it is held.
    fn lobby(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Ticket), Waiting>> {
        self.lobby.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener at the number of this socket, which may be changed for another if any will do;
/// `None`, and no lanes from others, if somebody else has it.
pub(super) fn listen(
    socket: &mut UdpSocket,
    wanted: SocketAddr,
    runtime: &Handle,
) -> io::Result<Option<TcpListener>> {
    let tries = if wanted.port() == 0 { ANY_PORTS } else { 1 };
    for _ in 1..tries {
        if let Ok(listener) = bind(socket.local_addr()?, runtime) {
            return Ok(Some(listener));
        }
        *socket = tuning::socket(wanted)?;
    }
    let address = socket.local_addr()?;
    let listener = bind(address, runtime).inspect_err(|error| {
        tracing::info!(%address, %error, "no lanes: all tensors come over QUIC");
    });
    Ok(listener.ok())
}

fn bind(address: SocketAddr, runtime: &Handle) -> io::Result<TcpListener> {
    let _entered = runtime.enter();
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Lets lanes in until it is dropped. Strangers cost a place for a moment and nothing else: whoever
/// finds none has QUIC.
pub(super) async fn keep_door(lanes: Arc<Lanes>, listener: TcpListener) {
    let mut standing = JoinSet::new();
    loop {
        tokio::select! {
            came = listener.accept(), if standing.len() < 2 * MOST => match came {
                Ok((stream, from)) => drop(standing.spawn(lanes.clone().let_in(stream, from))),
                Err(error) => {
                    tracing::debug!(%error, "cannot let a lane in");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = standing.join_next() => {}
        }
    }
}

// === impl Keys ===

impl Keys {
    fn of(identity: &Identity) -> Result<Self, QuicError> {
        let mut client = identity.client_config()?;
        client.alpn_protocols = vec![LANE_ALPN.to_vec()];
        let mut server = identity.server_config(Guests::Members)?;
        server.alpn_protocols = vec![LANE_ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

// === impl OutgoingLane ===

impl OutgoingLane {
    /// Whether it has waited so long to be used that the other end may have given it up before it
    /// reads of it.
    pub(super) fn is_stale(&self) -> bool {
        self.laid.elapsed() > UNTOLD
    }

    /// Hands all of it to the kernel.
    pub(super) async fn write(&mut self, tensor: &[u8]) -> io::Result<()> {
        self.stream.write_all(tensor).await?;
        self.stream.flush().await
    }
}

// === impl IncomingLane ===

impl IncomingLane {
    /// Reads until there are so many bytes. Safe to cancel: what came is in `tensor`. Memory grows
    /// with what has come.
    pub(super) async fn read(&mut self, tensor: &mut BytesMut, length: usize) -> io::Result<()> {
        while tensor.len() < length {
            let missing = length - tensor.len();
            if tensor.capacity() == tensor.len() {
                tensor.reserve(missing.min(tensor.len().max(FIRST_BYTES)));
            }
            if self.stream.read_buf(&mut tensor.limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// The word that announces a lane.
pub(super) fn word(ticket: Ticket) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&ticket.to_le_bytes())
}

/// The ticket of a word; `None` if it is none.
pub(super) fn ticket(mut word: bytes::Bytes) -> Option<Ticket> {
    (word.len() == size_of::<Ticket>()).then(|| word.get_u128_le())
}

/// The protocol, so that neither end is taken for another server of TLS.
const LANE_ALPN: &[u8] = b"troupe-lane/1";
const WELCOME: u8 = 1;
/// Shorter tensors fit into a few packets, and stay with their message.
pub(super) const SHORTEST: usize = 64 << 10;
/// A conversation that has less to send would be through before its lane is there.
pub(super) const WORTH_IT: usize = 1 << 20;
/// Lanes that go out, and as many that come in, strangers at the door included: each has a socket
/// and a buffer. Conversations beyond stay with QUIC.
const MOST: usize = 256;
/// From a lane's laying to the word of it: whoever sends may have to compute first.
const UNTOLD: Duration = Duration::from_secs(15);
/// From its welcome until it is taken: the word of it stands behind frames that wait for a reader,
/// which is given half a minute for each.
const IN_THE_LOBBY: Duration = Duration::from_secs(60);
/// After an accept that failed, for want of files mostly.
const PAUSE: Duration = Duration::from_millis(50);
/// Numbers that are tried where any will do: that of a UDP port may be a TCP connection's.
const ANY_PORTS: usize = 16;
/// Read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// The first memory of a tensor: whoever asks for it has proven who it is.
const FIRST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_number_is_taken_where_any_will_do() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let taken = std::net::TcpListener::bind(any).expect("a port");
        let at = taken.local_addr().expect("its address");
        let mut socket = tuning::socket(at).expect("UDP has numbers of its own");
        let exactly = listen(&mut socket, at, &Handle::current()).expect("no fault");
        assert!(exactly.is_none() && socket.local_addr().expect("its address") == at);
        let listener = listen(&mut socket, any, &Handle::current()).expect("no fault");
        let listener = listener.expect("some number is free");
        let address = socket.local_addr().expect("its address");
        assert!(address != at && listener.local_addr().expect("its address") == address);
    }
}
