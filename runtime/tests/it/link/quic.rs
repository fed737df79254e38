//! What only a carrier on a real network must withstand: strangers, garbage, silence, death.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::{task::JoinSet, time::timeout};
use troupe_runtime::{
    backoff::Backoff,
    transport::{
        Conversation, LinkError, Patience, PeerAddr, connect_with_retry, tls::LEAF_LIFETIME,
    },
};

use super::{contract::header, *};

/// A quinn client with a valid identity that does whatever a test wants, on threads of its own.
pub(super) struct Rogue {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl Rogue {
    pub(super) fn new(identity: &Identity, alpn: &[u8]) -> Self {
        let mut tls = identity.client_config().unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { endpoint, config: quinn::ClientConfig::new(Arc::new(crypto)) }
    }

    fn connecting(&self, peer: &PeerAddr) -> quinn::Connecting {
        let PeerAddr::Quic(address) = *peer else { panic!("{peer} is not QUIC") };
        self.endpoint.connect_with(self.config.clone(), address, "x").unwrap()
    }

    /// A connection that has said that it carries control traffic.
    pub(super) async fn control(&self, peer: &PeerAddr) -> quinn::Connection {
        let connection = self.connecting(peer).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        let mut answer = [0];
        receive.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [1]);
        connection
    }
}

fn authority() -> ClusterAuthority {
    ClusterAuthority::create("test").unwrap()
}

fn identity(ca: &ClusterAuthority, number: u128) -> Identity {
    ca.issue(PeerRole::Node, node(number)).unwrap()
}

/// That an honest peer is served as if nothing were.
async fn serves(link: &Arc<QuicLink>, honest: &Identity) {
    let (peer, _runtime) = quic_link(honest);
    let patience = Patience { deadline: LONG, backoff: Backoff::default(), seed: 1 };
    let address = link.address();
    let (here, there) =
        tokio::join!(connect_with_retry(&*peer, &address, Class::Control, &patience), async {
            loop {
                let connection = link.accept().await.unwrap();
                if connection.peer().node == honest.name().node {
                    return connection;
                }
            }
        });
    let (here, there) = (here.unwrap(), there);
    let mut opened = here.open(Conversation::Generate, LONG).await.unwrap();
    opened.sender.send(&numbered(1), LONG).await.unwrap();
    let (_, mut accepted) = timeout(LONG, there.accept()).await.unwrap().unwrap();
    assert_eq!(number_of(&accepted.receiver.expect(LONG).await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_is_refused() {
    let ours = authority();
    let (link, _runtime) = quic_link(&identity(&ours, 1));
    let (stranger, _runtime_2) = quic_link(&identity(&authority(), 2));
    let error = stranger.connect(&link.address(), Class::Control, LONG).await.unwrap_err();
    assert!(error.to_string().contains("its certificate is of another cluster"), "{error}");
    serves(&link, &identity(&ours, 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_and_its_holder_told() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let long_ago = SystemTime::now() - LEAF_LIFETIME - Duration::from_secs(60);
    let expired = ca.issue_for(PeerRole::Node, node(2), long_ago).unwrap();
    let (old, _runtime_2) = quic_link(&expired);
    let error = old.connect(&link.address(), Class::Control, LONG).await.unwrap_err();
    assert!(error.to_string().contains("our certificate has expired"), "{error}");
    let error = link.connect(&old.address(), Class::Control, LONG).await.unwrap_err();
    assert!(error.to_string().contains("its certificate has expired"), "{error}");
    serves(&link, &identity(&ca, 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_version_is_refused() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let rogue = Rogue::new(&identity(&ca, 2), b"troupe/999");
    let error = rogue.connecting(&link.address()).await.unwrap_err().to_string();
    assert!(error.contains("120"), "{error}");
    serves(&link, &identity(&ca, 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_is_none_is_refused() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let rogue = Rogue::new(&identity(&ca, 2), b"troupe/1");
    let connection = rogue.connecting(&link.address()).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[77]).await.unwrap();
    let error = timeout(LONG, connection.closed()).await.unwrap().to_string();
    assert!(error.contains("no such class"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_disturbs_nobody() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let (peer, _runtime_2) = quic_link(&identity(&ca, 2));
    let address = link.address();
    let (here, there) = tokio::join!(peer.connect(&address, Class::Control, LONG), link.accept());
    let (here, there) = (here.unwrap(), there.unwrap());
    let PeerAddr::Quic(port) = link.address() else { unreachable!() };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..2000_usize {
        // Long and short headers, every length up to a full datagram, nothing that decrypts.
        let garbage: Vec<u8> =
            (0..round % 1400).map(|i| (i * 31 + round * 17) as u8 | 0x40).collect();
        socket.send_to(&garbage, port).unwrap();
    }
    let mut opened = here.open(Conversation::Generate, LONG).await.unwrap();
    opened.sender.send(&numbered(1), LONG).await.unwrap();
    let (_, mut accepted) = timeout(LONG, there.accept()).await.unwrap().unwrap();
    assert_eq!(number_of(&accepted.receiver.expect(LONG).await.unwrap()), 1);
    serves(&link, &identity(&ca, 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_crowd_the_door_are_let_go_and_others_let_in() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let rogue = Rogue::new(&identity(&ca, 2), b"troupe/1");
    // They never say what they want. Held so that they do not leave by themselves.
    let _crowd: Vec<_> = (0..300).map(|_| rogue.connecting(&link.address())).collect();
    let quiet = rogue.connecting(&link.address());
    serves(&link, &identity(&ca, 3)).await;
    // Refused at the door, or let go once its time was over.
    let gone = timeout(LONG, async {
        match quiet.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    });
    gone.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_names_nothing_is_reset_and_holds_up_nobody() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let rogue = Rogue::new(&identity(&ca, 2), b"troupe/1");
    let address = link.address();
    let (connection, there) = tokio::join!(rogue.control(&address), link.accept());
    let there = there.unwrap();
    // One sends half a header and waits, one sends what is no conversation, one is honest.
    let (mut silent, mut to_silent) = connection.open_bi().await.unwrap();
    silent.write_all(&[1, 2, 3]).await.unwrap();
    let (mut nonsense, mut to_nonsense) = connection.open_bi().await.unwrap();
    nonsense.write_all(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9]).await.unwrap();
    let (mut huge, mut to_huge) = connection.open_bi().await.unwrap();
    huge.write_all(&[255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (mut honest, _to_honest) = connection.open_bi().await.unwrap();
    honest.write_all(&first_frame(Conversation::Status)).await.unwrap();
    let accepting = tokio::spawn(async move {
        let (what, stream) = there.accept().await.unwrap();
        // Nobody else is ever returned, but their time runs only while someone accepts.
        let other = there.accept().await;
        (what, stream, other.map(|(what, _)| what))
    });
    for (receive, code) in [(&mut to_nonsense, 2), (&mut to_huge, 2), (&mut to_silent, 3)] {
        let error = timeout(LONG, receive.read(&mut [0])).await.unwrap().unwrap_err();
        assert_eq!(error, quinn::ReadError::Reset(quinn::VarInt::from_u32(code)));
    }
    connection.close(0_u32.into(), b"done");
    let (what, _stream, other) = timeout(LONG, accepting).await.unwrap().unwrap();
    assert_eq!(what, Conversation::Status);
    assert!(matches!(other, Err(LinkError::Closed { .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_over_the_limit_ends_its_stream_only() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let rogue = Rogue::new(&identity(&ca, 2), b"troupe/1");
    let address = link.address();
    let (connection, there) = tokio::join!(rogue.control(&address), link.accept());
    let there = there.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&first_frame(Conversation::Generate)).await.unwrap();
    let (_, mut stream) = timeout(LONG, there.accept()).await.unwrap().unwrap();
    let (mut header, over) = (vec![0; 12], (16_u32 << 20) + 1);
    header[..4].copy_from_slice(&over.to_le_bytes());
    send.write_all(&header).await.unwrap();
    let error = stream.receiver.expect::<GenerateUp>(LONG).await.unwrap_err();
    assert!(matches!(&error, LinkError::Malformed(why) if why.contains("limit")), "{error}");
    // The peer learns it, and the connection goes on.
    let stopped = timeout(LONG, send.stopped()).await.unwrap().unwrap();
    assert_eq!(stopped, Some(quinn::VarInt::from_u32(2)));
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&first_frame(Conversation::Status)).await.unwrap();
    assert_eq!(timeout(LONG, there.accept()).await.unwrap().unwrap().0, Conversation::Status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_death_is_noticed() {
    let ca = authority();
    let (link, _runtime) = quic_link(&identity(&ca, 1));
    let (peer, peer_runtime) = quic_link(&identity(&ca, 2));
    let address = peer.address();
    let (here, there) = tokio::join!(link.connect(&address, Class::Control, LONG), peer.accept());
    let (here, _there) = (here.unwrap(), there.unwrap());
    let mut stream = here.open(Conversation::Generate, LONG).await.unwrap();
    // Its threads end between two instructions, as a killed process's do: no goodbye is sent.
    drop(peer_runtime);
    let error = timeout(LONG, stream.receiver.next::<GenerateUp>()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    let error = timeout(LONG, here.closed()).await.unwrap();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_process_ends_its_former_connections() {
    let ca = authority();
    // The peer would take minutes to notice a silent death.
    let patient = QuicConfig {
        idle: Duration::from_secs(600),
        keep_alive: Duration::from_millis(100),
        ..on_loopback()
    };
    let runtime = TransportRuntime::new(1).unwrap();
    let link = QuicLink::bind(&identity(&ca, 1), &patient, &runtime).unwrap();
    let mortal = identity(&ca, 2);
    let first_life = TransportRuntime::new(1).unwrap();
    let peer = QuicLink::bind(&mortal, &patient, &first_life).unwrap();
    let there = peer.address();
    let PeerAddr::Quic(address) = there else { unreachable!() };
    let (here, there) = tokio::join!(link.connect(&there, Class::Control, LONG), peer.accept());
    let here = here.unwrap();
    // Only when its threads have ended may its handles be dropped, or they would say goodbye.
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    first_life.handle().spawn(async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    drop(first_life);
    assert!(timeout(LONG, ended).await.unwrap().is_err());
    drop((peer, there));

    let second_life = TransportRuntime::new(1).unwrap();
    let same_port = QuicConfig { listen: address, ..patient };
    // The port is free once the first life's threads are gone.
    let reborn = timeout(LONG, async {
        loop {
            match QuicLink::bind(&mortal, &same_port, &second_life) {
                Ok(link) => return link,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let _reborn = reborn.await.unwrap();
    let error = timeout(LONG, here.closed()).await.unwrap();
    assert!(error.to_string().contains("restarted"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shares_its_identity_answers_for_one_that_is_gone() {
    let ca = authority();
    // The peer would take minutes to notice a silent death.
    let patient = QuicConfig {
        idle: Duration::from_secs(600),
        keep_alive: Duration::from_millis(100),
        ..on_loopback()
    };
    let runtime = TransportRuntime::new(1).unwrap();
    let link = QuicLink::bind(&identity(&ca, 1), &patient, &runtime).unwrap();
    let shared = identity(&ca, 2);
    let (heir, _heir_runtime) = quic_link(&shared);
    let life = TransportRuntime::new(1).unwrap();
    let peer = QuicLink::bind(&shared, &patient, &life).unwrap();
    let address = peer.address();
    let (here, there) = tokio::join!(link.connect(&address, Class::Control, LONG), peer.accept());
    let here = here.unwrap();
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    life.handle().spawn(async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    drop(life);
    assert!(timeout(LONG, ended).await.unwrap().is_err());
    drop((peer, there));
    // As soon as its port is free.
    let PeerAddr::Quic(port) = address else { unreachable!() };
    until_free(port).await;
    heir.answer_for(&address);
    let error = timeout(LONG, here.closed()).await.unwrap();
    assert!(error.to_string().contains("is gone"), "{error}");
}

async fn until_free(address: SocketAddr) {
    let free = async {
        while UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, free).await.unwrap();
}

/// Carries datagrams between one client and a server, as long as it is polled; to the server only
/// until it is deaf.
async fn relay(front: tokio::net::UdpSocket, server: SocketAddr, deaf: Arc<AtomicBool>) {
    let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut up, mut down) = ([0; 65536], [0; 65536]);
    let mut client = None;
    loop {
        tokio::select! {
            came = front.recv_from(&mut up) => {
                let Ok((bytes, from)) = came else { continue };
                client = Some(from);
                if !deaf.load(Ordering::Relaxed) {
                    let _ = back.send_to(&up[..bytes], server).await;
                }
            }
            came = back.recv_from(&mut down) => {
                if let (Ok((bytes, _)), Some(client)) = (came, client) {
                    let _ = front.send_to(&down[..bytes], client).await;
                }
            }
        }
    }
}

/// Two that are connected over a relay: `there` hears nothing any more once it is deaf.
struct OneWay {
    here: Arc<dyn Connection>,
    there: Arc<dyn Connection>,
    deaf: Arc<AtomicBool>,
    _keep: (Arc<QuicLink>, Arc<QuicLink>, JoinSet<()>, TransportRuntime),
}

impl OneWay {
    async fn new(here: &QuicConfig, there: &QuicConfig) -> Self {
        let ca = authority();
        let runtime = TransportRuntime::new(1).unwrap();
        let server = QuicLink::bind(&identity(&ca, 2), there, &runtime).unwrap();
        let PeerAddr::Quic(at) = server.address() else { unreachable!() };
        let client = QuicLink::bind(&identity(&ca, 1), here, &runtime).unwrap();
        let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let way = PeerAddr::Quic(front.local_addr().unwrap());
        let (deaf, mut relays) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        relays.spawn(relay(front, at, deaf.clone()));
        let (here, there) =
            tokio::join!(client.connect(&way, Class::Control, LONG), server.accept());
        let (here, there) = (here.unwrap(), there.unwrap());
        Self { here, there, deaf, _keep: (client, server, relays, runtime) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_nothing_says_so_to_whoever_hears_it() {
    // Long enough that a busy machine delays ten looks by less than a third of it.
    let quick = QuicConfig {
        idle: Duration::from_secs(3),
        keep_alive: Duration::from_millis(50),
        ..on_loopback()
    };
    // This one would wait for minutes.
    let patient = QuicConfig { idle: Duration::from_secs(600), ..quick.clone() };
    let OneWay { here, there, deaf, _keep } = OneWay::new(&patient, &quick).await;
    deaf.store(true, Ordering::Relaxed);
    let error = timeout(LONG, there.closed()).await.unwrap();
    assert!(error.to_string().contains("does not answer"), "{error}");
    let error = timeout(LONG, here.closed()).await.unwrap().to_string();
    assert!(error.contains("hears nothing"), "told aloud: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_does_not_hold_a_farewell_back() {
    // Neither would notice anything for minutes.
    let patient = QuicConfig { idle: Duration::from_secs(600), ..on_loopback() };
    let OneWay { here, there, deaf, _keep } = OneWay::new(&patient, &patient).await;
    let (ours, theirs) = tokio::join!(here.open(Conversation::Group, LONG), there.accept());
    let (_ours, (_, mut theirs)) = (ours.unwrap(), theirs.unwrap());
    deaf.store(true, Ordering::Relaxed);
    // What nobody acknowledges fills every window.
    let tensor = Bytes::from(vec![7; 64 << 20]);
    let limit = Duration::from_millis(300);
    let sent = theirs.sender.send_with_tensor(&header(tensor.len()), tensor, limit).await;
    assert!(matches!(sent, Err(LinkError::Deadline { .. })), "{sent:?}");
    there.close("that is all");
    let error = timeout(LONG, here.closed()).await.unwrap().to_string();
    assert!(error.contains("that is all"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let ca = authority();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let runtime = TransportRuntime::new(1).unwrap();
    let config = QuicConfig { listen, ..QuicConfig::default() };
    let error = QuicLink::bind(&identity(&ca, 1), &config, &runtime).unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}

#[test]
fn a_runtime_ends_from_anywhere() {
    let ca = authority();
    let (link, runtime) = quic_link(&identity(&ca, 1));
    drop(link);
    drop(runtime);
    let (link, runtime) = quic_link(&identity(&ca, 1));
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async move {
        drop(runtime);
        drop(link);
    });
}

/// A frame that opens a conversation, as bytes.
pub(super) fn first_frame(what: Conversation) -> Vec<u8> {
    let message = troupe_runtime::wire::encode(&what).unwrap();
    let mut bytes = (message.len() as u32).to_le_bytes().to_vec();
    bytes.extend([0; 8]);
    bytes.extend_from_slice(&message);
    bytes
}
