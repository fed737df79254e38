//! What every carrier promises. Each check is a function over a pair of links; the table at the end
//! runs all of them against all carriers.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;
use troupe_runtime::{
    id::{Coordinate, Epoch, StepId},
    transport::{Conversation, LinkError, PeerAddr, Stream},
    wire::kv::{BulkChannel, BulkOpen, TensorHeader, WireDtype},
};

use super::*;

const BULK: Conversation = Conversation::Bulk(BulkOpen {
    epoch: Epoch { number: 3, nonce: 4 },
    from: Coordinate { dp: 0, stage: 0, tp: 0 },
    to: Coordinate { dp: 0, stage: 1, tp: 0 },
    channel: BulkChannel::Activation,
});

pub(super) fn header(bytes: usize) -> TensorHeader {
    TensorHeader { step: StepId(1), index: 0, rows: 1, columns: bytes as u32, dtype: WireDtype::U8 }
}

/// A conversation over a fresh connection: the opener's end, the accepter's, and the connection.
async fn conversation(pair: &Pair, what: Conversation) -> (Stream, Stream, Connected) {
    let connected = pair.connect(what.class()).await;
    let (opened, accepted) =
        tokio::join!(connected.at_a.open(what, LONG), timeout(LONG, connected.at_b.accept()));
    let (named, accepted) = accepted.unwrap().unwrap();
    assert_eq!(named, what);
    (opened.unwrap(), accepted, connected)
}

async fn conversations_arrive_with_their_names_and_peers(pair: Pair) {
    for what in [Conversation::Generate, Conversation::Group, Conversation::Status, BULK] {
        let (_, _, connected) = conversation(&pair, what).await;
        assert_eq!(connected.at_a.class(), what.class());
        assert_eq!(connected.at_b.class(), what.class());
        assert_eq!(connected.at_a.peer().node, node(2));
        assert_eq!(connected.at_b.peer().node, node(1));
        assert_eq!(connected.at_b.peer().cluster, "test");
    }
}

async fn either_side_opens(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    let mut opened = connected.at_b.open(Conversation::Status, LONG).await.unwrap();
    opened.sender.send(&numbered(1), LONG).await.unwrap();
    let (what, mut accepted) = timeout(LONG, connected.at_a.accept()).await.unwrap().unwrap();
    assert_eq!(what, Conversation::Status);
    assert_eq!(number_of(&accepted.receiver.expect(LONG).await.unwrap()), 1);
}

async fn frames_keep_their_order_in_both_directions(pair: Pair) {
    let (mut here, mut there, _connected) = conversation(&pair, Conversation::Generate).await;
    let echo = tokio::spawn(async move {
        while let Some(message) = there.receiver.next::<GenerateUp>().await.unwrap() {
            there.sender.send(&message, LONG).await.unwrap();
        }
        there.sender.finish().unwrap();
    });
    let sending = async {
        for number in 0..2000 {
            here.sender.send(&numbered(number), LONG).await.unwrap();
        }
        here.sender.finish().unwrap();
    };
    let receiving = async {
        for number in 0..2000 {
            let message = here.receiver.expect(LONG).await.unwrap();
            assert_eq!(number_of(&message), number);
        }
        assert!(here.receiver.next::<GenerateUp>().await.unwrap().is_none());
    };
    tokio::join!(sending, receiving);
    echo.await.unwrap();
}

async fn many_streams_do_not_wait_for_each_other(pair: Pair) {
    const STREAMS: u32 = 300;
    let connected = pair.connect(Class::Control).await;
    // All are open before the first is answered, and they are answered from the last.
    let accepter = connected.at_b.clone();
    let accepting = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let (_, mut stream) = accepter.accept().await.unwrap();
            let number = number_of(&stream.receiver.expect(LONG).await.unwrap());
            streams.push((number, stream));
        }
        for (number, stream) in streams.iter_mut().rev() {
            stream.sender.send(&numbered(*number), LONG).await.unwrap();
        }
        (accepter, streams)
    });
    let asking = (0..STREAMS).map(|number| {
        let connection = connected.at_a.clone();
        async move {
            let mut stream = connection.open(Conversation::Generate, LONG).await.unwrap();
            stream.sender.send(&numbered(number), LONG).await.unwrap();
            assert_eq!(number_of(&stream.receiver.expect(LONG).await.unwrap()), number);
        }
    });
    join_all(asking).await;
    drop(accepting.await.unwrap());
}

async fn an_end_is_told_from_an_abort(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    for finish in [true, false] {
        let (opened, accepted) = tokio::join!(
            connected.at_a.open(Conversation::Generate, LONG),
            timeout(LONG, connected.at_b.accept())
        );
        let (mut opened, (_, mut accepted)) = (opened.unwrap(), accepted.unwrap().unwrap());
        opened.sender.send(&numbered(1), LONG).await.unwrap();
        assert_eq!(number_of(&accepted.receiver.expect(LONG).await.unwrap()), 1);
        if finish {
            opened.sender.finish().unwrap();
            assert!(matches!(
                opened.sender.send(&numbered(2), LONG).await,
                Err(LinkError::Over(_))
            ));
        }
        drop(opened.sender);
        let end = accepted.receiver.next::<GenerateUp>().await;
        match finish {
            true => assert!(matches!(end, Ok(None)), "{end:?}"),
            false => assert!(matches!(end, Err(LinkError::Reset)), "{end:?}"),
        }
    }
}

async fn a_dropped_receiver_stops_the_sender(pair: Pair) {
    let (mut here, there, _connected) = conversation(&pair, Conversation::Generate).await;
    let Stream { sender: _sender, receiver } = there;
    drop(receiver);
    timeout(LONG, here.sender.stopped()).await.unwrap();
    let error = here.sender.send(&numbered(1), LONG).await.unwrap_err();
    assert!(matches!(error, LinkError::Reset), "{error}");
}

async fn a_send_to_a_peer_that_does_not_read_is_bounded(pair: Pair) {
    let (mut here, mut there, _connected) = conversation(&pair, BULK).await;
    let tensor = Bytes::from(vec![7; 1 << 20]);
    let limit = Duration::from_millis(300);
    let mut sent = 0;
    let error = loop {
        match here.sender.send_with_tensor(&header(1 << 20), tensor.clone(), limit).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 512, "{sent} MiB went to a peer that does not read");
    };
    assert!(matches!(error, LinkError::Deadline { .. }), "{error}");
    // Half a frame cannot be taken back: the direction is over, for both sides.
    let error = here.sender.send(&header(0), LONG).await.unwrap_err();
    assert!(matches!(error, LinkError::Over(_)), "{error}");
    let error = loop {
        match there.receiver.next_with_tensor::<TensorHeader>().await {
            Ok(frame) => assert!(frame.is_some(), "an end where an abort was due"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LinkError::Reset), "{error}");
}

async fn large_tensors_arrive_intact(pair: Pair) {
    let (mut here, mut there, _connected) = conversation(&pair, BULK).await;
    let scrambled = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    let tensor = Bytes::from_iter((0..64 << 20).map(scrambled));
    let sent = tensor.clone();
    let sending = tokio::spawn(async move {
        for tensor in [sent.clone(), sent, Bytes::new()] {
            here.sender.send_with_tensor(&header(tensor.len()), tensor, LONG).await.unwrap();
        }
        here
    });
    for expected in [tensor.clone(), tensor, Bytes::new()] {
        let frame = timeout(LONG, there.receiver.next_with_tensor::<TensorHeader>()).await.unwrap();
        let (got, bytes) = frame.unwrap().unwrap();
        assert_eq!(got, header(expected.len()));
        assert!(bytes == expected, "the tensor's bytes differ");
    }
    drop(sending.await.unwrap());
}

async fn a_canceled_receive_loses_nothing(pair: Pair) {
    let (mut here, mut there, _connected) = conversation(&pair, BULK).await;
    let sending = tokio::spawn(async move {
        for number in 0..200_usize {
            // From one datagram to many.
            let tensor = Bytes::from(vec![number as u8; number * 500]);
            here.sender.send_with_tensor(&header(tensor.len()), tensor, LONG).await.unwrap();
            tokio::task::yield_now().await;
        }
        here
    });
    let mut canceled = 0_u32;
    for number in 0..200_usize {
        let (got, bytes) = loop {
            let next = there.receiver.next_with_tensor::<TensorHeader>();
            tokio::select! {
                biased;
                frame = next => break frame.unwrap().unwrap(),
                () = tokio::task::yield_now() => canceled += 1,
            }
        };
        assert_eq!(got, header(number * 500));
        assert!(bytes.iter().all(|byte| *byte == number as u8), "tensor {number} is torn");
    }
    assert!(canceled > 0, "nothing was ever canceled");
    drop(sending.await.unwrap());
}

async fn a_close_is_seen_everywhere_with_its_reason(pair: Pair) {
    let (_here, mut there, connected) = conversation(&pair, Conversation::Generate).await;
    connected.at_a.close("the service is deleted");
    for error in [
        timeout(LONG, connected.at_b.closed()).await.unwrap(),
        timeout(LONG, there.receiver.next::<GenerateUp>()).await.unwrap().unwrap_err(),
        timeout(LONG, connected.at_b.accept()).await.unwrap().unwrap_err(),
        connected.at_b.open(Conversation::Generate, LONG).await.unwrap_err(),
    ] {
        assert!(matches!(error, LinkError::Closed { .. }), "{error}");
        assert!(error.to_string().contains("the service is deleted"), "{error}");
    }
    let error = timeout(LONG, connected.at_a.closed()).await.unwrap();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

async fn a_dropped_connection_closes(pair: Pair) {
    let (here, there, Connected { at_a, at_b }) = conversation(&pair, Conversation::Status).await;
    // A stream keeps it open.
    drop(at_a);
    let Stream { mut sender, receiver } = here;
    sender.send(&numbered(5), LONG).await.unwrap();
    let mut there = there;
    assert_eq!(number_of(&there.receiver.expect(LONG).await.unwrap()), 5);
    drop((sender, receiver));
    let error = timeout(LONG, at_b.closed()).await.unwrap();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

async fn a_closed_link_ends_everything_it_had(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    pair.b.close("the host goes down for maintenance").await;
    let error = timeout(LONG, connected.at_a.closed()).await.unwrap().to_string();
    assert!(error.contains("maintenance"), "{error}");
    assert!(timeout(LONG, pair.b.accept()).await.unwrap().is_none());
    let limit = Duration::from_secs(5);
    let again = pair.a.connect(&pair.b.address(), Class::Control, limit).await;
    assert!(
        matches!(again, Err(LinkError::Unreachable { .. } | LinkError::Deadline { .. })),
        "{again:?}"
    );
}

async fn a_dropped_link_closes_its_connections(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    drop(pair.b);
    let error = timeout(LONG, connected.at_a.closed()).await.unwrap();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

async fn nobody_there_is_said_within_the_deadline(pair: Pair) {
    let nobody = match pair.a.address() {
        PeerAddr::Local(_) => PeerAddr::Local(99),
        PeerAddr::Quic(_) => {
            // A port that was free a moment ago, held so that nobody else listens there.
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            std::mem::forget(socket);
            PeerAddr::Quic(address)
        }
    };
    let limit = Duration::from_millis(400);
    let error = timeout(LONG, pair.a.connect(&nobody, Class::Control, limit)).await.unwrap();
    assert!(
        matches!(error, Err(LinkError::Unreachable { .. } | LinkError::Deadline { .. })),
        "{error:?}"
    );
}

async fn an_open_that_nobody_accepts_has_a_deadline(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    let mut open = Vec::new();
    let error = loop {
        match connected.at_a.open(Conversation::Status, Duration::from_millis(300)).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
        assert!(open.len() < 10_000, "opening is not bounded");
    };
    assert!(matches!(error, LinkError::Deadline { .. }), "{error}");
}

async fn classes_keep_to_themselves(pair: Pair) {
    for (class, what) in
        [(Class::Control, BULK), (Class::Kv, BULK), (Class::Kv, Conversation::Group)]
    {
        let connected = pair.connect(class).await;
        let error = connected.at_a.open(what, LONG).await.unwrap_err();
        assert!(matches!(error, LinkError::Forbidden(_)), "{error}");
    }
}

/// The opener is a gateway here.
async fn a_role_opens_only_its_own_conversations(pair: Pair) {
    let connected = pair.connect(Class::Control).await;
    let accepter = connected.at_b.clone();
    let accepting = tokio::spawn(async move { accepter.accept().await.unwrap() });
    let mut refused = connected.at_a.open(Conversation::Group, LONG).await.unwrap();
    let error = refused.receiver.next::<GenerateUp>().await.unwrap_err();
    assert!(matches!(error, LinkError::Forbidden(_)), "{error}");
    // The accepter never saw it, and the next one passes.
    let _generate = connected.at_a.open(Conversation::Generate, LONG).await.unwrap();
    let (what, _) = timeout(LONG, accepting).await.unwrap().unwrap();
    assert_eq!(what, Conversation::Generate);
}

/// One test for each check and carrier.
macro_rules! contract {
    ($($carrier:ident),*: $checks:tt) => { $( contract!(@ $carrier $checks); )* };
    (@ $carrier:ident { $($check:ident ($a:ident),)* }) => {
        mod $carrier {
            use super::PeerRole;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    super::$check(crate::link::$carrier(PeerRole::$a, PeerRole::Node)).await;
                }
            )*
        }
    };
}

contract! { local, quic, faulty: {
    conversations_arrive_with_their_names_and_peers(Node),
    either_side_opens(Node),
    frames_keep_their_order_in_both_directions(Node),
    many_streams_do_not_wait_for_each_other(Gateway),
    an_end_is_told_from_an_abort(Gateway),
    a_dropped_receiver_stops_the_sender(Gateway),
    a_send_to_a_peer_that_does_not_read_is_bounded(Node),
    large_tensors_arrive_intact(Node),
    a_canceled_receive_loses_nothing(Node),
    a_close_is_seen_everywhere_with_its_reason(Gateway),
    a_dropped_connection_closes(Gateway),
    a_closed_link_ends_everything_it_had(Gateway),
    a_dropped_link_closes_its_connections(Gateway),
    nobody_there_is_said_within_the_deadline(Node),
    an_open_that_nobody_accepts_has_a_deadline(Gateway),
    classes_keep_to_themselves(Control),
    a_role_opens_only_its_own_conversations(Gateway),
} }

// What is about a conversation, for conversations whose tensors go through memory, or over TCP.
contract! { shared, lanes: {
    frames_keep_their_order_in_both_directions(Node),
    an_end_is_told_from_an_abort(Gateway),
    a_dropped_receiver_stops_the_sender(Gateway),
    a_send_to_a_peer_that_does_not_read_is_bounded(Node),
    large_tensors_arrive_intact(Node),
    a_canceled_receive_loses_nothing(Node),
} }
