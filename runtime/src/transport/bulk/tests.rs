//! The handles as device threads use them, over all of their carriers.

use std::thread;

use super::*;
use crate::{
    id::{Coordinate, Epoch, NodeId},
    transport::{
        Class, Conversation, Link, LocalNetwork, PeerIdentity, PeerRole,
        shm::{self, Ring},
    },
    wire::kv::{BulkChannel, BulkOpen, WireDtype},
};

const LONG: Duration = Duration::from_secs(20);

fn tensor(step: u64, index: u32) -> (TensorHeader, Bytes) {
    let header =
        TensorHeader { step: StepId(step), index, rows: 2, columns: 600, dtype: WireDtype::F32 };
    (header, Bytes::from(vec![index as u8; 4800]))
}

fn send(sender: &mut BulkSender, step: u64, index: u32) -> Result<(), LinkError> {
    let (header, bytes) = tensor(step, index);
    sender.send(header, bytes)
}

/// A conversation over an in-process link.
async fn conversation() -> (Stream, Stream) {
    let network = LocalNetwork::new();
    let identity = PeerIdentity {
        cluster: "test".into(),
        role: PeerRole::Node,
        node: NodeId(uuid::Uuid::from_u128(1)),
    };
    let (a, b) = (network.link(identity.clone()), network.link(identity));
    let here = a.connect(&b.address(), Class::Activations, LONG).await.unwrap();
    let there = b.accept().await.unwrap();
    let what = BulkOpen {
        epoch: Epoch::default(),
        from: Coordinate::default(),
        to: Coordinate { stage: 1, ..Coordinate::default() },
        channel: BulkChannel::Activation,
    };
    let opened = here.open(Conversation::Bulk(what), LONG).await.unwrap();
    let (_, accepted) = there.accept().await.unwrap();
    // Links and connections must outlive the streams here, as they do in a process: an end
    // that is dropped is then a reset, and not the whole connection's end.
    std::mem::forget((a, b, here, there));
    (opened, accepted)
}

/// Two ends over it, pumped by `runtime`.
fn over_link(runtime: &tokio::runtime::Runtime, depth: usize) -> (BulkSender, BulkReceiver) {
    runtime.block_on(async {
        let (opened, accepted) = conversation().await;
        let handle = Handle::current();
        let (sender, _) = bulk_over(opened, depth, &handle);
        let (_, receiver) = bulk_over(accepted, depth, &handle);
        (sender, receiver)
    })
}

/// The same with tensors in shared memory, which are long enough for it here.
fn over_memory(runtime: &tokio::runtime::Runtime, depth: usize) -> (BulkSender, BulkReceiver) {
    runtime.block_on(async {
        let (opened, accepted) = conversation().await;
        let ring = Some(Ring { slots: 3, slot_bytes: 8 << 10 });
        let sender = shm::lend(opened, ring, LONG).await.unwrap();
        let receiver = shm::borrow(accepted, ring);
        let (out, back) = (Arc::new(Queue::new(depth)), Arc::new(Queue::new(depth)));
        let up = Pump(tokio::spawn(pump_out(out.clone(), sender)));
        let down = Pump(tokio::spawn(pump_in(back.clone(), receiver)));
        (BulkSender::new(out, Some(up)), BulkReceiver { queue: back, _pump: Some(down) })
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Runs a check over all carriers.
fn all(check: impl Fn(BulkSender, BulkReceiver)) {
    let (sender, receiver) = bulk_pair(3);
    check(sender, receiver);
    let runtime = runtime();
    let (sender, receiver) = over_link(&runtime, 3);
    check(sender, receiver);
    let (sender, receiver) = over_memory(&runtime, 3);
    check(sender, receiver);
}

#[test]
fn tensors_arrive_in_order_and_the_end_is_an_end() {
    all(|mut sender, mut receiver| {
        let thread = thread::spawn(move || {
            for step in 0..500 {
                send(&mut sender, step, 0).unwrap();
                send(&mut sender, step, 1).unwrap();
            }
            sender.finish().unwrap();
        });
        for step in 0..500 {
            for index in 0..2 {
                let got = receiver.receive(StepId(step), index, LONG).unwrap();
                assert_eq!(got, tensor(step, index));
            }
        }
        let end = receiver.receive(StepId(500), 0, LONG);
        assert!(matches!(end, Err(LinkError::Ended)), "{end:?}");
        thread.join().unwrap();
    });
}

#[test]
fn another_tensor_than_expected_is_refused() {
    all(|mut sender, mut receiver| {
        send(&mut sender, 7, 0).unwrap();
        let error = receiver.receive(StepId(8), 0, LONG).unwrap_err().to_string();
        assert!(error.contains("tensor 0 of step 7 came instead of 0 of step 8"), "{error}");
    });
}

#[test]
fn bytes_that_do_not_fit_their_header_are_not_sent() {
    let (mut sender, _receiver) = bulk_pair(1);
    let (header, _) = tensor(1, 0);
    let error = sender.send(header, Bytes::from_static(b"short")).unwrap_err();
    assert!(matches!(error, LinkError::Malformed(_)));
}

#[test]
fn a_dropped_sender_wakes_the_receiver() {
    all(|sender, mut receiver| {
        let waiting = thread::spawn(move || receiver.receive(StepId(1), 0, LONG).unwrap_err());
        drop(sender);
        assert!(matches!(waiting.join().unwrap(), LinkError::Reset));
    });
}

#[test]
fn a_dropped_receiver_fails_a_sender_that_waits_for_room() {
    all(|mut sender, receiver| {
        let blocked = thread::spawn(move || {
            loop {
                if let Err(error) = send(&mut sender, 1, 0) {
                    return error;
                }
            }
        });
        drop(receiver);
        let error = blocked.join().unwrap();
        assert!(matches!(error, LinkError::Reset), "{error}");
    });
}

#[test]
fn the_queue_is_bounded() {
    let (sender, _receiver) = bulk_pair(2);
    let mut sender = sender.with_deadline(Duration::from_millis(5));
    send(&mut sender, 1, 0).unwrap();
    send(&mut sender, 2, 0).unwrap();
    assert!(matches!(send(&mut sender, 3, 0), Err(LinkError::Deadline { .. })));
}

#[test]
fn a_receive_has_a_deadline() {
    all(|_sender, mut receiver| {
        let error = receiver.receive(StepId(1), 0, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, LinkError::Deadline { .. }));
    });
}
