//! Memory that is what was offered or is not taken, and lines over it whose other end lies.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    id::{Coordinate, Epoch, NodeId, RequestId, StepId, TransferId},
    transport::{
        Class, Conversation, FrameSender, Link, LinkError, LocalNetwork, PeerIdentity, PeerRole,
        Stream,
    },
    wire::{
        kv::{TensorHeader, WireDtype},
        shared::{SharedDown, SharedUp},
        transfer::{KvFrame, KvOpen, Run},
    },
};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const RING: Ring = Ring { slots: 4, slot_bytes: 64 << 10 };

fn segment() -> Segment {
    Segment::create(RING).unwrap()
}

#[test]
fn what_is_put_is_copied_by_whoever_opened_it() {
    let mut segment = segment();
    let view = View::open(&segment.offer()).unwrap();
    // It can be read without the file, and after its owner is gone.
    segment.close();
    for slot in 0..RING.slots {
        segment.put(slot, &vec![slot as u8 + 1; RING.slot_bytes as usize]);
    }
    segment.put(2, b"shorter");
    drop(segment);
    assert_eq!(view.copy(2, 7).unwrap(), &b"shorter"[..]);
    let all = view.copy(3, RING.slot_bytes).unwrap();
    assert!(all.iter().all(|byte| *byte == 4));
    assert_eq!(view.copy(4, 1), None);
    assert_eq!(view.copy(0, RING.slot_bytes + 1), None);
}

#[test]
fn what_is_not_the_memory_that_was_offered_is_not_taken() {
    let segment = segment();
    let offer = segment.offer();
    let refused = |offer: SegmentOffer| View::open(&offer).unwrap_err();
    let why = refused(SegmentOffer { host: offer.host + 1, ..offer });
    assert!(why.contains("another host"), "{why}");
    let why = refused(SegmentOffer { nonce: offer.nonce + 1, ..offer });
    assert!(why.contains("nonce"), "{why}");
    let why = refused(SegmentOffer { slots: offer.slots + 1, ..offer });
    assert!(why.contains("bytes"), "{why}");
    let why = refused(SegmentOffer { process: u32::MAX, ..offer });
    assert!(why.contains("No such file"), "{why}");
    // A file of another kind is not even opened: not by anybody, here.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memfd:troupe-tensors (deleted)");
    let other = File::create(&path).unwrap();
    other.set_permissions(fs::Permissions::from_mode(0o000)).unwrap();
    let why = refused(SegmentOffer { file: other.as_raw_fd() as u32, ..offer });
    assert!(why.contains(" is /"), "{why}");
}

#[test]
fn memory_that_can_become_shorter_is_not_taken() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create(NAME, flags).unwrap());
    file.set_len(length(RING.slots, RING.slot_bytes)).unwrap();
    let number = file.as_raw_fd() as u32;
    let why = View::open(&SegmentOffer { file: number, ..segment().offer() }).unwrap_err();
    assert!(why.contains("shorter"), "{why}");
}

#[test]
fn memory_is_gone_with_those_who_have_it() {
    let segment = segment();
    let offer = segment.offer();
    drop(segment);
    View::open(&offer).unwrap_err();
}

/// Both ends of a conversation in this process.
async fn conversation() -> (Stream, Stream) {
    let network = LocalNetwork::new();
    let identity = PeerIdentity {
        cluster: "test".into(),
        role: PeerRole::Node,
        node: NodeId(uuid::Uuid::from_u128(1)),
    };
    let (a, b) = (network.link(identity.clone()), network.link(identity));
    let here = a.connect(&b.address(), Class::Kv, LONG).await.unwrap();
    let there = b.accept().await.unwrap();
    let end = Coordinate::default();
    let open = KvOpen { epoch: Epoch::default(), transfer: TransferId(1), from: end, to: end };
    let opened = here.open(Conversation::Kv(open), LONG).await.unwrap();
    let (_, accepted) = there.accept().await.unwrap();
    // They must outlive the streams here, as they do in a process.
    std::mem::forget((a, b, here, there));
    (opened, accepted)
}

fn tensor(bytes: usize) -> (TensorHeader, Bytes) {
    let dtype = WireDtype::U8;
    let header = TensorHeader { step: StepId(1), index: 0, rows: 1, columns: bytes as u32, dtype };
    (header, Bytes::from(vec![7; bytes]))
}

async fn send(sender: &mut FrameSender, bytes: usize) -> Result<(), LinkError> {
    let (header, tensor) = tensor(bytes);
    sender.send_with_tensor(&header, tensor, LONG).await
}

/// Waits for a frame and says whether its tensor was in memory.
async fn was_placed(raw: &mut Stream) -> bool {
    match raw.receiver.next_with_tensor::<SharedDown>().await.unwrap().unwrap() {
        (SharedDown::Placed(..), tensor) => tensor.is_empty(),
        (SharedDown::Beside(_), _) => false,
        (SharedDown::Offer(_), _) => panic!("memory is offered first, and once"),
    }
}

/// A sender, and the other end of its conversation as it is, after the offer.
async fn lent() -> (FrameSender, Stream, SegmentOffer) {
    let (here, mut there) = conversation().await;
    let sender = lend(here, Some(RING), LONG).await.unwrap();
    let SharedDown::Offer(offer) = there.receiver.expect(LONG).await.unwrap() else {
        panic!("memory is offered first");
    };
    (sender, there, offer)
}

/// Sends until a tensor goes the way that is wanted: an answer has to arrive first.
async fn sends_until(sender: &mut FrameSender, raw: &mut Stream, placed: bool) {
    loop {
        send(sender, 8 << 10).await.unwrap();
        if was_placed(raw).await == placed {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tensors_go_over_the_network_until_the_other_side_has_the_memory() {
    let (mut sender, mut raw, offer) = lent().await;
    send(&mut sender, 8 << 10).await.unwrap();
    assert!(!was_placed(&mut raw).await, "nobody has said that it can read it");
    let view = View::open(&offer).unwrap();
    raw.sender.send(&SharedUp { mapped: true, taken: 0 }, LONG).await.unwrap();
    sends_until(&mut sender, &mut raw, true).await;
    assert_eq!(view.copy(0, 8 << 10).unwrap(), tensor(8 << 10).1);
    // What is small or has no room in a place goes as ever.
    for (bytes, placed) in [(16, false), ((64 << 10) + 1, false), (64 << 10, true), (0, false)] {
        send(&mut sender, bytes).await.unwrap();
        assert_eq!(was_placed(&mut raw).await, placed, "{bytes}");
    }
}

#[tokio::test]
async fn one_who_cannot_read_it_is_sent_everything() {
    let (mut sender, mut raw, _) = lent().await;
    raw.sender.send(&SharedUp { mapped: true, taken: 0 }, LONG).await.unwrap();
    sends_until(&mut sender, &mut raw, true).await;
    // Also when it has thought better of it.
    raw.sender.send(&SharedUp { mapped: false, taken: 1 }, LONG).await.unwrap();
    sends_until(&mut sender, &mut raw, false).await;
    raw.sender.send(&SharedUp { mapped: true, taken: 1 }, LONG).await.unwrap();
    for _ in 0..20 {
        send(&mut sender, 8 << 10).await.unwrap();
        assert!(!was_placed(&mut raw).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_used_again_only_once_it_was_taken() {
    let (mut sender, mut raw, _) = lent().await;
    raw.sender.send(&SharedUp { mapped: true, taken: 0 }, LONG).await.unwrap();
    sends_until(&mut sender, &mut raw, true).await;
    for _ in 1..RING.slots {
        send(&mut sender, 8 << 10).await.unwrap();
    }
    let (header, bytes) = tensor(8 << 10);
    let full = sender.send_with_tensor(&header, bytes, Duration::from_secs(1)).await;
    assert!(matches!(full, Err(LinkError::Deadline { .. })), "{full:?}");
}

#[tokio::test]
async fn a_receiver_that_takes_what_was_never_sent_is_found_out() {
    let (mut sender, mut raw, _) = lent().await;
    raw.sender.send(&SharedUp { mapped: true, taken: 9 }, LONG).await.unwrap();
    let error = loop {
        match send(&mut sender, 8 << 10).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, LinkError::Malformed(why) if why.contains("9 tensors")), "{error}");
}

#[tokio::test]
async fn a_sender_that_points_where_nothing_can_be_is_found_out() {
    let (mut raw, there) = conversation().await;
    let mut receiver = borrow(there, Some(RING));
    raw.sender.send(&SharedDown::Placed(vec![], 16), LONG).await.unwrap();
    let error = receiver.next::<TensorHeader>().await.unwrap_err();
    assert!(matches!(error, LinkError::Malformed(_)), "{error}");

    let (mut raw, there) = conversation().await;
    let mut receiver = borrow(there, Some(RING));
    let segment = segment();
    raw.sender.send(&SharedDown::Offer(segment.offer()), LONG).await.unwrap();
    let longer = RING.slot_bytes + 1;
    raw.sender.send(&SharedDown::Placed(vec![], longer), LONG).await.unwrap();
    let error = receiver.next::<TensorHeader>().await.unwrap_err();
    assert!(matches!(error, LinkError::Malformed(_)), "{error}");
    assert!(raw.receiver.expect::<SharedUp>(LONG).await.unwrap().mapped);
}

#[tokio::test]
async fn more_memory_than_is_wanted_or_none_is_declined() {
    for most in [None, Some(Ring { slots: 3, ..RING }), Some(Ring { slot_bytes: 1, ..RING })] {
        let (mut raw, there) = conversation().await;
        let mut receiver = borrow(there, most);
        let segment = segment();
        raw.sender.send(&SharedDown::Offer(segment.offer()), LONG).await.unwrap();
        let (header, _) = tensor(0);
        let message = crate::transport::EncodeMessage::encode(&header).unwrap();
        raw.sender.send(&SharedDown::Beside(message.to_vec()), LONG).await.unwrap();
        assert_eq!(receiver.expect::<TensorHeader>(LONG).await.unwrap(), header);
        let up = raw.receiver.expect::<SharedUp>(LONG).await.unwrap();
        assert_eq!(up, SharedUp { mapped: false, taken: 0 });
    }
}

#[tokio::test]
async fn bytes_that_change_after_they_were_summed_are_seen() {
    let (mut raw, there) = conversation().await;
    let mut receiver = borrow(there, Some(RING));
    let mut segment = segment();
    raw.sender.send(&SharedDown::Offer(segment.offer()), LONG).await.unwrap();
    let bytes = vec![5; 8 << 10];
    let frame = KvFrame {
        epoch: Epoch::default(),
        request: RequestId::default(),
        transfer: TransferId(1),
        group: 0,
        layer: 0,
        heads: Run::new(0, 1),
        blocks: Run::new(0, 1),
        checksum: 0,
    }
    .seal(&bytes);
    let message = crate::transport::EncodeMessage::encode(&frame).unwrap().to_vec();
    let length = bytes.len() as u32;
    for slot in 0..2 {
        segment.put(slot, &bytes);
        let placed = SharedDown::Placed(message.clone(), length);
        raw.sender.send(&placed, LONG).await.unwrap();
    }
    // Before the receiver has it: then the copy is wrong, and is seen to be.
    segment.put(0, &[6; 100]);
    let (told, copy) = receiver.next_with_tensor::<KvFrame>().await.unwrap().unwrap();
    assert!(!told.is_intact(&copy));
    // Afterwards it is of no use: what was checked is what is kept.
    let (told, copy) = receiver.next_with_tensor::<KvFrame>().await.unwrap().unwrap();
    segment.put(1, &[6; 100]);
    assert!(told.is_intact(&copy));
}
