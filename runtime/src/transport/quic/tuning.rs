//! quinn's settings, each with its reason. Its defaults are made for the open internet: 100
//! streams, 30 s until a dead peer is noticed, windows for 12 MB/s, and a reset key that a restart
//! forgets.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    crypto::{
        self,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
    udp::UdpSocketState,
};

use super::{QuicConfig, QuicError, farewell, handshake::HANDSHAKES, silence};
use crate::transport::{
    Class,
    tls::{Identity, TlsError},
};

/// What one conversation may have on its way to a reader: 10 Gbit/s at 3 ms, or one activation of a
/// step of 512 tokens with 4096 half-precision elements.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for a control connection: seven conversations that nobody reads do not stop the others.
const CONTROL_WINDOW: u32 = 32 << 20;
/// And for a bulk one, where the tensors of several steps may be on their way.
const BULK_WINDOW: u32 = 64 << 20;
/// What the socket may hold while the transport's threads are busy. The system grants less unless
/// `net.core.rmem_max` allows it.
pub const SOCKET_BYTES: usize = 8 << 20;
/// Largest datagram on a loopback address. Ten of them fill what one system call can send.
const LOOPBACK_MTU: u16 = 6500;
/// Largest datagram elsewhere: jumbo frames, where the network has them (quinn probes).
const NETWORK_MTU: u16 = 8952;
/// A stranger's first packets, until it is let in: two full flights.
const INCOMING_BYTES: u64 = 32 << 10;
/// As long as quinn's own.
const RANDOM_ID_BYTES: usize = 8;

/// What connecting needs, made once.
pub(super) struct ClientConfigs {
    crypto: Arc<QuicClientConfig>,
    /// By class, and by whether the peer is on this host.
    transports: BTreeMap<(Class, bool), Arc<TransportConfig>>,
}

/// Connection ids that any process takes for its own, so that packets for a former life's are
/// answered with a reset. (quinn's own generator refuses those of another life unheard.)
struct RandomIds;

/// Stateless reset tokens keyed by the identity: a restarted process ends the connections of its
/// former life at the first packet that it gets.
struct ResetKey([u8; 32]);

pub(super) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let state = UdpSocketState::new((&socket).into())?;
    for set in [UdpSocketState::set_recv_buffer_size, UdpSocketState::set_send_buffer_size] {
        if let Err(error) = set(&state, (&socket).into(), SOCKET_BYTES) {
            tracing::debug!(%error, "keep the system's socket buffers");
        }
    }
    Ok(socket)
}

pub(super) fn endpoint_config(identity: &Identity) -> Result<EndpointConfig, QuicError> {
    let reset_key = identity.secret("troupe 2026-01 QUIC stateless reset");
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config.cid_generator(|| Box::new(RandomIds));
    config
        .max_udp_payload_size(NETWORK_MTU)
        .map_err(|_| QuicError::Setting { setting: "the largest datagram" })?;
    Ok(config)
}

pub(super) fn server_config(
    identity: &Identity,
    config: &QuicConfig,
) -> Result<ServerConfig, QuicError> {
    let crypto =
        QuicServerConfig::try_from(identity.server_config(config.guests)?).map_err(no_suite)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    let on_loopback = config.listen.ip().is_loopback();
    server
        // Windows by class follow when the peer has said which it is.
        .transport_config(Arc::new(transport(config, Class::Control, on_loopback)?))
        // Hosts do not roam; a connection that changes its address is made anew.
        .migration(false)
        .max_incoming(HANDSHAKES)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * HANDSHAKES as u64);
    Ok(server)
}

/// What a connection of this class may have on its way to us.
pub(super) fn receive_window(class: Class) -> VarInt {
    VarInt::from_u32(match class {
        Class::Control => CONTROL_WINDOW,
        Class::Activations | Class::Kv => BULK_WINDOW,
    })
}

fn transport(
    config: &QuicConfig,
    class: Class,
    on_loopback: bool,
) -> Result<TransportConfig, QuicError> {
    let idle = IdleTimeout::try_from(silence::backstop(config.idle))
        .map_err(|_| QuicError::Setting { setting: "the idle limit" })?;
    if config.keep_alive.is_zero() || config.keep_alive >= config.idle {
        return Err(QuicError::Setting { setting: "the keep-alive interval" });
    }
    let mtu = if on_loopback { LOOPBACK_MTU } else { NETWORK_MTU };
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(config.max_conversations))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(Some(idle))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(receive_window(class))
        .send_window(u64::from(BULK_WINDOW))
        .congestion_controller_factory(Arc::new(farewell::Factory::default()))
        // A cluster's round trip, so that a lost first packet costs milliseconds, not a second.
        .initial_rtt(Duration::from_millis(20))
        .mtu_discovery_config(Some(discovery));
    Ok(transport)
}

fn no_suite(_: crypto::rustls::NoInitialCipherSuite) -> QuicError {
    QuicError::Tls(TlsError::Unusable {
        what: "the TLS provider",
        why: "it lacks the cipher suite that QUIC begins with".into(),
    })
}

// === impl ClientConfigs ===

impl ClientConfigs {
    pub(super) fn new(identity: &Identity, config: &QuicConfig) -> Result<Self, QuicError> {
        Self::of_tls(identity.client_config()?, config)
    }

    pub(super) fn of_tls(
        tls: rustls::ClientConfig,
        config: &QuicConfig,
    ) -> Result<Self, QuicError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(no_suite)?;
        let mut transports = BTreeMap::new();
        for class in [Class::Control, Class::Activations, Class::Kv] {
            for on_loopback in [false, true] {
                let transport = Arc::new(transport(config, class, on_loopback)?);
                transports.insert((class, on_loopback), transport);
            }
        }
        Ok(Self { crypto: Arc::new(crypto), transports })
    }

    /// For a connection of this class to this address.
    pub(super) fn of(&self, class: Class, address: SocketAddr) -> ClientConfig {
        let mut client = ClientConfig::new(self.crypto.clone());
        if let Some(transport) = self.transports.get(&(class, address.ip().is_loopback())) {
            client.transport_config(transport.clone());
        }
        client
    }
}

// === impl RandomIds ===

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; RANDOM_ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        RANDOM_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

// === impl ResetKey ===

impl crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), crypto::CryptoError> {
        // `blake3::Hash` compares in constant time.
        match blake3::Hash::from_slice(signature) {
            Ok(given) if given == blake3::keyed_hash(&self.0, data) => Ok(()),
            _ => Err(crypto::CryptoError),
        }
    }
}
