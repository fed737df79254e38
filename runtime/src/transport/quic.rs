//! The carrier between processes: QUIC with mutual TLS, one UDP socket per process.
//!
//! The same socket connects and is connected to. A connection begins with the TLS handshake (who),
//! then one short exchange names the class of its traffic ([`handshake`]); only then does anyone
//! above hear of it. Strangers are kept at that door: how many may stand there, for how long and
//! with how much memory is bounded, and nothing that they do reaches established connections.
//!
//! Everything runs on the threads of a [`TransportRuntime`], so that a busy runtime elsewhere never
//! delays a keep-alive, and two cores full of kernels are not taken for a dead peer.

mod admitted;
mod connection;
mod farewell;
mod handshake;
mod knock;
mod lanes;
mod runtime;
mod silence;
mod streams;
mod tuning;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use quinn::{Endpoint, EndpointConfig, VarInt};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use self::{
    admitted::Admitted, connection::QuicConnection, handshake::Inside, lanes::Lanes,
    runtime::OnHandle,
};
pub use self::{knock::knock, runtime::TransportRuntime, tuning::SOCKET_BYTES};
use super::{
    Class, Connection, Link, LinkError, PeerAddr,
    tls::{Guests, Identity, TlsError},
};
use crate::id::NodeId;

/// Connections that have shaken hands and wait to be accepted: as many as peers that start at the
/// same moment. More are told to come back.
const ACCEPT_BACKLOG: usize = 256;
/// How long closing waits for peers to be told.
const FAREWELL: Duration = Duration::from_millis(500);
/// The application code of an orderly close; its reason is text.
const CLOSED: VarInt = VarInt::from_u32(0);

/// How a process stands on the network. `Default` is right inside a cluster.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whether newcomers with a join token are let in too.
    pub guests: Guests,
    /// What others are told instead of the address that is listened on, which may be a wildcard.
    pub advertise: Option<IpAddr>,
    /// Classes whose large tensors go over TLS on TCP beside their conversation, where it gets
    /// through; none of them unless they are named.
    pub lanes: Vec<Class>,
    /// Conversations that a peer may have open at once on one connection: the sequences that a
    /// leader runs plus those that it queues.
    pub max_conversations: u32,
    /// How often a silent connection is heard of.
    pub keep_alive: Duration,
    /// A peer not heard of for this long is gone.
    pub idle: Duration,
    /// A peer that connects must have said who it is and what for within this time.
    pub handshake: Duration,
}

/// One process's end of the network. See [`Link`].
pub struct QuicLink {
    endpoint: Endpoint,
    advertised: SocketAddr,
    config: QuicConfig,
    /// Changed by a renewal; held for an instant.
    clients: RwLock<tuning::ClientConfigs>,
    /// Who is connected, and who may not be.
    admitted: Arc<Admitted>,
    accepted: Mutex<mpsc::Receiver<Arc<QuicConnection>>>,
    /// Lets strangers in; ends with the link.
    door: JoinHandle<()>,
    /// Ends silent connections; ends with the link.
    watch: JoinHandle<()>,
    /// What this identity's endpoints are made of.
    own: EndpointConfig,
    lanes: Option<Arc<Lanes>>,
    /// Lets lanes in, likewise.
    lane_door: Option<JoinHandle<()>>,
    runtime: tokio::runtime::Handle,
}

/// Why a link cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The certificates do not work.
    #[error("cannot set up mutual TLS")]
    Tls(#[from] TlsError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A setting is out of its range.
    #[error("{setting} is out of range")]
    Setting {
        /// Which.
        setting: &'static str,
    },
}

// === impl QuicConfig ===

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            guests: Guests::Members,
            advertise: None,
            lanes: Vec::new(),
            // 1024 running and three times as many waiting.
            max_conversations: 4096,
            keep_alive: Duration::from_millis(250),
            // Five lost keep-alives and a little.
            idle: Duration::from_millis(1500),
            handshake: Duration::from_secs(3),
        }
    }
}

// === impl QuicLink ===

impl QuicLink {
    /// Listens and lets peers in. The link lives on `runtime`'s threads and must be dropped (or
    /// closed) before it.
    ///
    /// # Errors
    /// [`QuicError::Bind`] names the address if it is taken.
    pub fn bind(
        identity: &Identity,
        config: &QuicConfig,
        runtime: &TransportRuntime,
    ) -> Result<Arc<Self>, QuicError> {
        let bind_error = |source| QuicError::Bind { address: config.listen, source };
        let handle = runtime.handle().clone();
        let mut socket = tuning::socket(config.listen).map_err(bind_error)?;
        let listener = match *config.lanes {
            [] => None,
            _ => lanes::listen(&mut socket, config.listen, &handle).map_err(bind_error)?,
        };
        let own = tuning::endpoint_config(identity)?;
        let endpoint = Endpoint::new(
            own.clone(),
            Some(tuning::server_config(identity, config)?),
            socket,
            Arc::new(OnHandle(handle.clone())),
        )
        .map_err(bind_error)?;
        let mut advertised = endpoint.local_addr().map_err(bind_error)?;
        if let Some(ip) = config.advertise {
            advertised.set_ip(ip);
        }
        let (accept, accepted) = mpsc::channel(ACCEPT_BACKLOG);
        let admitted = Arc::new(Admitted::new(&identity.name().cluster));
        let patience = config.handshake;
        let watch = handle.spawn(silence::watch(admitted.clone(), config.idle));
        let lanes = match &*config.lanes {
            [] => None,
            classes => {
                let (book, runtime) = (admitted.clone(), handle.clone());
                Some(Arc::new(Lanes::new(identity, classes, patience, book, runtime)?))
            }
        };
        let lane_door = lanes.clone().zip(listener);
        let lane_door = lane_door.map(|(to, at)| handle.spawn(lanes::keep_door(to, at)));
        let inside = Inside { admitted: admitted.clone(), lanes: lanes.clone() };
        let door = handle.spawn(handshake::keep_door(endpoint.clone(), patience, inside, accept));
        Ok(Arc::new(Self {
            endpoint,
            advertised,
            config: config.clone(),
            clients: RwLock::new(tuning::ClientConfigs::new(identity, config)?),
            admitted,
            accepted: Mutex::new(accepted),
            door,
            watch,
            own,
            lanes,
            lane_door,
            runtime: handle,
        }))
    }

    /// Shows this certificate from now on, to whoever connects and is connected to. Connections
    /// that are there stay.
    ///
    /// # Errors
    /// [`QuicError::Tls`] if the identity's parts do not belong together; then nothing changes.
    pub fn present(&self, identity: &Identity) -> Result<(), QuicError> {
        let server = tuning::server_config(identity, &self.config)?;
        let clients = tuning::ClientConfigs::new(identity, &self.config)?;
        if let Some(lanes) = &self.lanes {
            lanes.present(identity)?;
        }
        self.endpoint.set_server_config(Some(server));
        // Nothing under the lock can panic.
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = clients;
        Ok(())
    }

    /// How many conversations here have had their large tensors come over a lane of TCP so far.
    pub fn lanes_taken(&self) -> u64 {
        self.lanes.as_ref().map_or(0, |lanes| lanes.laid())
    }

    /// From now on these identities, and no others, are turned away whatever they show, each for
    /// this reason; connections with them end at once.
    pub fn turn_away(&self, identities: BTreeMap<NodeId, String>) {
        self.admitted.turn_away(identities);
    }
}

#[async_trait]
impl Link for QuicLink {
    fn address(&self) -> PeerAddr {
        PeerAddr::Quic(self.advertised)
    }

    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        let unreachable = |why: String| LinkError::Unreachable { peer: peer.clone(), why };
        let PeerAddr::Quic(address) = *peer else {
            return Err(unreachable("a QUIC link reaches quic:// addresses only".into()));
        };
        let client = {
            let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
            clients.of(class, address)
        };
        let connecting = self
            .endpoint
            .connect_with(client, address, SERVER_NAME)
            .map_err(|error| unreachable(error.to_string()))?;
        let shaken = handshake::connect(connecting, class, self.lanes.as_ref());
        let shaken = tokio::time::timeout(deadline, shaken);
        match shaken.await {
            Ok(Ok(connection)) => {
                self.admitted.enter(&connection).map_err(unreachable)?;
                Ok(Arc::new(connection))
            }
            Ok(Err(why)) => Err(unreachable(why)),
            Err(_) => Err(LinkError::Deadline { what: "connecting", deadline }),
        }
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let connection = self.accepted.lock().await.recv().await?;
        Some(connection)
    }

    async fn close(&self, reason: &str) {
        self.admitted.part();
        self.endpoint.close(CLOSED, reason.as_bytes());
        let endpoint = self.endpoint.clone();
        let idle = self.runtime.spawn(async move {
            let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
        });
        // Fails only if the runtime is gone, and then there is nobody left to wait for.
        let _ = idle.await;
    }

    fn answer_for(&self, gone: &PeerAddr) {
        let PeerAddr::Quic(address) = *gone else { return };
        // What it told others may not be what it listened on, which it had from its host.
        let address = SocketAddr::new(self.config.listen.ip(), address.port());
        // After that nobody waits for it any more.
        let lasts = silence::backstop(self.config.idle).saturating_mul(2);
        // It ends by itself, or with the threads.
        self.runtime.spawn(silence::answer_for(address, self.own.clone(), lasts));
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.door.abort();
        self.watch.abort();
        self.lane_door.iter().for_each(JoinHandle::abort);
        self.admitted.part();
        self.endpoint.close(CLOSED, b"the link was dropped");
    }
}

impl fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicLink({})", self.advertised)
    }
}

/// TLS wants a server name; ours are URIs in certificates, so this one is never sent nor checked.
const SERVER_NAME: &str = "troupe";
