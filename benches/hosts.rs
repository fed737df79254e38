//! How fast KV goes from one host to another, beside TLS over TCP on the same way.
//!
//! ```text
//! cargo bench --bench hosts [-- --mib N]
//! ```
//! Two network namespaces with a pair of interfaces between them are two hosts; making them takes
//! root. A process in each: one sends frames of KV with their checksums as ranks do, on some
//! connections at once; the other takes and checks them. They go over lanes of TCP beside QUIC, and
//! once more over QUIC alone, as where TCP is blocked. Beside it the same bytes over TLS 1.3 on as
//! many connections of TCP, with the same certificates and cipher, and without any frames.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use troupe_actors::worker::transfer::{FRAME_BYTES, Incoming, inspect};
use troupe_runtime::{
    id::{Coordinate, Epoch, NodeId, RequestId, TransferId},
    transport::{
        Class, Connection, Conversation, Link, PeerAddr, PeerRole, QuicConfig, QuicLink,
        TransportRuntime,
        tls::{ClusterAuthority, Guests, Identity},
    },
    wire::transfer::{KvFrame, KvOpen, Run},
};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);
const HOSTS: [(&str, &str); 2] = [("troupe-bench-a", "10.97.0.1"), ("troupe-bench-b", "10.97.0.2")];
const TCP_PORT: u16 = 7601;
const QUIC_PORT: u16 = 7602;
const CONNECTIONS: [usize; 3] = [1, 2, 4];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", folder] => {
            TransportRuntime::new(2).expect("threads").handle().block_on(receive(Path::new(folder)))
        }
        ["send", folder, mib] => {
            let runtime = TransportRuntime::new(2).expect("threads");
            let bytes = mib.parse::<usize>().expect("a number") << 20;
            runtime.handle().block_on(send(&runtime, Path::new(folder), bytes));
        }
        [] => between_hosts("1024"),
        ["--mib", mib] => between_hosts(mib),
        _ => panic!("see the top of benches/hosts.rs"),
    }
}

/// Makes two hosts for each size of packets, and has one send to the other.
fn between_hosts(mib: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = ClusterAuthority::create("bench").expect("the CA");
    for (number, (name, _)) in (1..).zip(HOSTS) {
        let identity = ca.issue(PeerRole::Node, NodeId(Uuid::from_u128(number))).expect("a leaf");
        identity.save(&folder.path().join(name)).expect("saved");
    }
    println!("{mib} MiB, the best of three, GB/s\n");
    println!(
        "{:<8}{:>14}{:>10}{:>10}{:>8}{:>12}",
        "MTU", "connections", "TLS/TCP", "lanes", "share", "QUIC alone"
    );
    for mtu in ["1500", "9000"] {
        let _hosts = Hosts::new(mtu);
        let own = |role: &str, host: &str, more: &[&str]| {
            let program = std::env::current_exe().expect("this file");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", host]).arg(program).arg(role).arg(folder.path());
            command.args(more).stdout(Stdio::piped());
            Ended(command.spawn().expect("it starts"))
        };
        let _receiver = own("receive", HOSTS[1].0, &[]);
        let sender = own("send", HOSTS[0].0, &[mib]).output();
        for line in sender.lines() {
            println!("{mtu:<8}{line}");
        }
    }
}

/// Two namespaces, gone when this is.
struct Hosts;

impl Hosts {
    fn new(mtu: &str) -> Self {
        let hosts = Self;
        let [(a, at_a), (b, at_b)] = HOSTS;
        for host in [a, b] {
            ip(&["netns", "add", host]);
        }
        ip(&[
            "link", "add", "kv0", "netns", a, "mtu", mtu, "type", "veth", "peer", "name", "kv0",
            "netns", b, "mtu", mtu,
        ]);
        for (host, at) in [(a, at_a), (b, at_b)] {
            ip(&["-n", host, "addr", "add", &format!("{at}/24"), "dev", "kv0"]);
            ip(&["-n", host, "link", "set", "kv0", "up"]);
        }
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for (host, _) in HOSTS {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {}: this takes root", words.join(" "));
}

/// A process that is ended when this is.
struct Ended(Child);

impl Ended {
    fn output(mut self) -> String {
        let mut said = String::new();
        let mut out = self.0.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut out, &mut said).expect("words");
        assert!(self.0.wait().expect("it ends").success(), "the sender failed");
        said
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn identity(folder: &Path, host: usize) -> Identity {
    let place: PathBuf = folder.join(HOSTS[host].0);
    Identity::load(&place).expect("its identity")
}

fn address(host: usize, port: u16) -> SocketAddr {
    SocketAddr::new(HOSTS[host].1.parse().expect("an address"), port)
}

fn link(
    identity: &Identity,
    listen: SocketAddr,
    lanes: &[Class],
    runtime: &TransportRuntime,
) -> Arc<QuicLink> {
    let config = QuicConfig { listen, lanes: lanes.to_vec(), ..QuicConfig::default() };
    QuicLink::bind(identity, &config, runtime).expect("a free port")
}

/// Takes whatever comes, over both, for ever.
async fn receive(folder: &Path) {
    let identity = identity(folder, 1);
    let threads = TransportRuntime::new(2).expect("threads");
    let link = link(&identity, address(1, QUIC_PORT), &[Class::Kv], &threads);
    let config = identity.server_config(Guests::Members).expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address(1, TCP_PORT)).await.expect("a free port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.expect("a handshake");
                let mut bytes = vec![0; FRAME_BYTES];
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
                stream.shutdown().await.expect("said");
            });
        }
    });
    while let Some(connection) = link.accept().await {
        tokio::spawn(async move {
            while let Ok((_, mut stream)) = connection.accept().await {
                tokio::spawn(async move {
                    let receiver = &mut stream.receiver;
                    while let Ok(Some((frame, bytes))) =
                        receiver.next_with_tensor::<KvFrame>().await
                    {
                        assert!(matches!(inspect(frame, bytes), Incoming::Frame(..)));
                    }
                    stream.sender.finish().expect("said");
                });
            }
        });
    }
}

async fn send(runtime: &TransportRuntime, folder: &Path, bytes: usize) {
    let identity = identity(folder, 0);
    let connector =
        TlsConnector::from(Arc::new(identity.client_config().expect("a configuration")));
    // Each of these has its own socket, as the members of a group have.
    let links = |first: u16, lanes: &[Class]| -> Vec<_> {
        (first..first + 4).map(|port| link(&identity, address(0, port), lanes, runtime)).collect()
    };
    let (with_lanes, alone) = (links(7700, &[Class::Kv]), links(7710, &[]));
    for connections in CONNECTIONS {
        let (mut tcp, mut lanes, mut quic) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..3 {
            let speed = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e9;
            tcp = tcp.max(speed(over_tcp(&connector, connections, bytes).await));
            lanes = lanes.max(speed(over_quic(&with_lanes[..connections], bytes).await));
            quic = quic.max(speed(over_quic(&alone[..connections], bytes).await));
        }
        let share = lanes / tcp * 100.0;
        println!("{connections:>14}{tcp:>10.2}{lanes:>10.2}{share:>7.0}%{quic:>12.2}");
    }
}

async fn over_tcp(connector: &TlsConnector, connections: usize, bytes: usize) -> Duration {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = loop {
            match TcpStream::connect(address(1, TCP_PORT)).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let name = "troupe".try_into().expect("a name");
        streams.push(connector.connect(name, stream).await.expect("a handshake"));
    }
    let chunk = Bytes::from(vec![7; FRAME_BYTES]);
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for mut stream in streams {
        let chunk = chunk.clone();
        sending.spawn(async move {
            for _ in 0..bytes / connections / FRAME_BYTES {
                stream.write_all(&chunk).await.expect("it reads");
            }
            stream.shutdown().await.expect("said");
            // The other end says that it has all.
            let _ = stream.read(&mut [0; 1]).await;
        });
    }
    sending.join_all().await;
    began.elapsed()
}

async fn over_quic(links: &[Arc<QuicLink>], bytes: usize) -> Duration {
    let there = PeerAddr::Quic(address(1, QUIC_PORT));
    let mut connected: Vec<Arc<dyn Connection>> = Vec::new();
    for link in links {
        connected.push(link.connect(&there, Class::Kv, LONG).await.expect("connected"));
    }
    let open = KvOpen {
        epoch: Epoch::default(),
        transfer: TransferId(1),
        from: Coordinate::default(),
        to: Coordinate::default(),
    };
    let frame = KvFrame {
        epoch: Epoch::default(),
        request: RequestId::default(),
        transfer: TransferId(1),
        group: 0,
        layer: 0,
        heads: Run::new(0, 8),
        blocks: Run::new(0, 8),
        checksum: 0,
    };
    let began = Instant::now();
    let mut sending = JoinSet::new();
    let frames = bytes / connected.len() / FRAME_BYTES;
    for connection in connected {
        sending.spawn(async move {
            let bytes = Bytes::from(vec![7; FRAME_BYTES]);
            let mut stream = connection.open(Conversation::Kv(open), LONG).await.expect("opened");
            for _ in 0..frames {
                let frame = frame.seal(&bytes);
                stream.sender.send_with_tensor(&frame, bytes.clone(), LONG).await.expect("sent");
            }
            stream.sender.finish().expect("finished");
            // The other end says that it has all.
            let _ = stream.receiver.next_with_tensor::<KvFrame>().await;
        });
    }
    sending.join_all().await;
    began.elapsed()
}
