//! Large tensors over TCP beside QUIC: for the contract, and what only they must withstand.

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use troupe_runtime::{
    id::StepId,
    transport::{Conversation, LinkError, PeerAddr, Stream},
    wire::kv::{TensorHeader, WireDtype},
};

use super::{
    quic::{Rogue, first_frame},
    *,
};

/// Two links that have lanes for every class.
pub(super) fn lanes(a: PeerRole, b: PeerRole) -> Pair {
    let ca = ClusterAuthority::create("test").unwrap();
    let (a, runtime_a) = link(&ca.issue(a, node(1)).unwrap(), true);
    let (b, runtime_b) = link(&ca.issue(b, node(2)).unwrap(), true);
    Pair { a, b, _keep: Box::new((runtime_a, runtime_b)) }
}

fn link(identity: &Identity, has_lanes: bool) -> (Arc<QuicLink>, TransportRuntime) {
    let all = [Class::Control, Class::Activations, Class::Kv];
    let lanes = if has_lanes { all.to_vec() } else { Vec::new() };
    let runtime = TransportRuntime::new(1).unwrap();
    (QuicLink::bind(identity, &QuicConfig { lanes, ..on_loopback() }, &runtime).unwrap(), runtime)
}

/// Two links, of which the second has lanes or not, and a conversation from the first.
struct Two {
    b: Arc<QuicLink>,
    here: Stream,
    there: Stream,
    _keep: (Connected, Arc<QuicLink>, TransportRuntime, TransportRuntime),
}

impl Two {
    async fn new(has_lanes: bool) -> Self {
        let ca = ClusterAuthority::create("test").unwrap();
        let (a, runtime_a) = link(&ca.issue(PeerRole::Node, node(1)).unwrap(), true);
        let (b, runtime_b) = link(&ca.issue(PeerRole::Node, node(2)).unwrap(), has_lanes);
        let address = b.address();
        let (at_a, at_b) = tokio::join!(a.connect(&address, Class::Control, LONG), b.accept());
        let (at_a, at_b) = (at_a.unwrap(), at_b.unwrap());
        let (here, there) = tokio::join!(at_a.open(Conversation::Group, LONG), at_b.accept());
        let (here, (_, there)) = (here.unwrap(), there.unwrap());
        Self { b, here, there, _keep: (Connected { at_a, at_b }, a, runtime_a, runtime_b) }
    }

    /// Sends a tensor that is told by its number, and has it taken.
    async fn pass(&mut self, number: usize) {
        // From what stays on the stream to what does not.
        let length = number * 77_777 % 1_500_000;
        let header = header(number, length);
        let tensor = Bytes::from(vec![number as u8; length]);
        let (sent, came) = tokio::join!(
            self.here.sender.send_with_tensor(&header, tensor.clone(), LONG),
            timeout(LONG, self.there.receiver.next_with_tensor::<TensorHeader>()),
        );
        sent.unwrap();
        let (told, bytes) = came.unwrap().unwrap().unwrap();
        assert_eq!(told, header);
        assert!(bytes == tensor, "tensor {number} is another");
    }

    /// Passes tensors until one went over a lane.
    async fn until_there(&mut self) {
        for number in 0.. {
            self.pass(number).await;
            if self.b.lanes_taken() > 0 {
                return;
            }
            assert!(number < 100_000, "no lane came");
        }
    }
}

fn header(number: usize, length: usize) -> TensorHeader {
    let (step, columns) = (StepId(number as u64), length as u32);
    TensorHeader { step, index: 0, rows: 1, columns, dtype: WireDtype::U8 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_tensors_take_the_lane_and_keep_their_order() {
    let mut two = Two::new(true).await;
    two.until_there().await;
    for number in 0..40 {
        two.pass(number).await;
    }
    assert_eq!(two.b.lanes_taken(), 1);
    two.here.sender.finish().unwrap();
    assert!(two.there.receiver.next::<TensorHeader>().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tcp_does_not_get_through_tensors_stay_with_quic() {
    let mut two = Two::new(false).await;
    for number in 0..100 {
        two.pass(number).await;
    }
    assert_eq!(two.b.lanes_taken(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_tensor_on_a_lane_is_an_abort() {
    let mut two = Two::new(true).await;
    two.until_there().await;
    // Nobody reads, so that no way has room for all of it.
    let (length, limit) = (128 << 20, Duration::from_millis(300));
    let tensor = Bytes::from(vec![7; length]);
    let sent = two.here.sender.send_with_tensor(&header(1, length), tensor, limit).await;
    assert!(matches!(sent, Err(LinkError::Deadline { .. })), "{sent:?}");
    let came = timeout(LONG, two.there.receiver.next_with_tensor::<TensorHeader>()).await.unwrap();
    assert!(matches!(came, Err(LinkError::Reset)), "{came:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_reads_a_lane_is_said_at_once() {
    let Two { here: Stream { mut sender, .. }, there, b, _keep } = {
        let mut two = Two::new(true).await;
        two.until_there().await;
        two
    };
    let (length, _b) = (128 << 20, b);
    let tensor = Bytes::from(vec![7; length]);
    let sending =
        tokio::spawn(
            async move { sender.send_with_tensor(&header(1, length), tensor, LONG).await },
        );
    drop(there);
    let sent = timeout(LONG, sending).await.unwrap().unwrap();
    assert!(matches!(sent, Err(LinkError::Reset)), "{sent:?}");
    drop(_keep);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_was_never_laid_ends_the_conversation() {
    let ca = ClusterAuthority::create("test").unwrap();
    let (b, _runtime) = link(&ca.issue(PeerRole::Node, node(2)).unwrap(), true);
    let rogue = Rogue::new(&ca.issue(PeerRole::Node, node(1)).unwrap(), b"troupe/1");
    let address = b.address();
    let (connection, accepted) = tokio::join!(rogue.control(&address), b.accept());
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&first_frame(Conversation::Generate)).await.unwrap();
    let (_, mut stream) = timeout(LONG, accepted.unwrap().accept()).await.unwrap().unwrap();
    // A word of the carrier's with a ticket.
    let mut word = 16_u32.to_le_bytes().to_vec();
    word.extend(0_u32.to_le_bytes());
    word.extend(2_u32.to_le_bytes());
    word.extend([9; 16]);
    send.write_all(&word).await.unwrap();
    let came = timeout(LONG, stream.receiver.next::<TensorHeader>()).await.unwrap();
    assert!(matches!(came, Err(LinkError::Malformed(_))), "{came:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_door_of_lanes_are_turned_away() {
    let mut two = Two::new(true).await;
    let PeerAddr::Quic(address) = two.b.address() else { unreachable!() };
    let mut noise = TcpStream::connect(address).await.unwrap();
    noise.write_all(&[0x55; 4096]).await.unwrap();
    let mut said = Vec::new();
    // An alert at most, and the end.
    let _ = timeout(LONG, noise.read_to_end(&mut said)).await.unwrap();
    assert!(said.len() < 64, "{said:?}");
    // Nor is one of another cluster let in, who finds out when its certificate has been looked at.
    let other = ClusterAuthority::create("test").unwrap();
    let other = other.issue(PeerRole::Node, node(1)).unwrap();
    let mut tls = other.client_config().unwrap();
    tls.alpn_protocols = vec![b"troupe-lane/1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "troupe".try_into().unwrap();
    assert!(connector.connect(name, stream).await.is_err());
    // Who is of the cluster has its lane all the same.
    two.until_there().await;
}
