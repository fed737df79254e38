//! One direction of a conversation whose tensors go through shared memory where that can be.
//!
//! [`lend`] and [`borrow`] take a whole stream each and give the direction that is used; the other
//! one carries how the receiver stands. What they give keeps the contract of any carrier: frames in
//! order, an end told from an abort, a sender that waits while nobody takes what it has sent. The
//! ring's places take the part of the window: there are so many tensors on their way and no more.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};

use super::{Segment, View};
use crate::{
    transport::{
        FrameReceiver, FrameSender, LinkError, Stream,
        error::Abort,
        stream::{EncodeMessage, Frame, ReceiveFrames, SendFrames},
    },
    wire::shared::{SegmentOffer, SharedDown, SharedUp},
};

/// How much memory is shared: so many tensors may be on their way, each of so many bytes at most.
/// Longer ones travel beside their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Tensors.
    pub slots: u32,
    /// Bytes of each.
    pub slot_bytes: u32,
}

/// Makes the sending end of a line of tensors out of a conversation. With a ring its memory is
/// offered to the other side; where there is no such memory, as without one, all of it goes over
/// the network.
///
/// # Errors
/// As any send, within `deadline`.
pub async fn lend(
    stream: Stream,
    ring: Option<Ring>,
    deadline: Duration,
) -> Result<FrameSender, LinkError> {
    let Stream { mut sender, receiver } = stream;
    let segment = ring.and_then(|ring| {
        let segment = Segment::create(ring);
        segment.inspect_err(|error| tracing::debug!(%error, "no memory to share")).ok()
    });
    if let Some(segment) = &segment {
        sender.send(&SharedDown::Offer(segment.offer()), deadline).await?;
    }
    let (tell, heard) = watch::channel(Heard::default());
    let mut listener = JoinSet::new();
    listener.spawn(listen(receiver, tell));
    let lender = Lender { inner: sender, segment, placed: 0, heard, _listener: listener };
    Ok(FrameSender::new(Box::new(lender)))
}

/// Makes the receiving end. It takes tensors out of a ring of at most this size, and out of none if
/// there is none. To be called within a runtime.
pub fn borrow(stream: Stream, most: Option<Ring>) -> FrameReceiver {
    let Stream { sender, receiver } = stream;
    let (tell, state) = watch::channel(SharedUp { mapped: false, taken: 0 });
    let mut speaker = JoinSet::new();
    speaker.spawn(speak(sender, state));
    let inner = receiver;
    let borrower = Borrower { inner, most, view: None, taken: 0, tell, _speaker: speaker };
    FrameReceiver::new(Box::new(borrower))
}

struct Lender {
    inner: FrameSender,
    segment: Option<Segment>,
    placed: u64,
    heard: watch::Receiver<Heard>,
    /// Ends with this.
    _listener: JoinSet<()>,
}

/// What the receiver has said.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    last: Option<SharedUp>,
    /// It will say nothing more.
    is_over: bool,
}

struct Borrower {
    inner: FrameReceiver,
    /// What is taken; none once something was offered.
    most: Option<Ring>,
    view: Option<View>,
    taken: u64,
    tell: watch::Sender<SharedUp>,
    /// Ends with this.
    _speaker: JoinSet<()>,
}

// === impl Lender ===

impl Lender {
    /// Puts a tensor into the next place of the ring, as soon as that is free, if there is a ring
    /// and it is worth it.
    async fn place(&mut self, tensor: &Bytes) -> Result<bool, LinkError> {
        let Some(segment) = &mut self.segment else { return Ok(false) };
        let ring = segment.offer();
        if !(SHORTEST..=ring.slot_bytes as usize).contains(&tensor.len()) {
            return Ok(false);
        }
        loop {
            let Heard { last, is_over } = *self.heard.borrow_and_update();
            let Some(SharedUp { mapped, taken }) = last else { return Ok(false) };
            // Whichever it is: there is nothing left to open.
            segment.close();
            if !mapped {
                self.segment = None;
                return Ok(false);
            }
            let Some(waiting) = self.placed.checked_sub(taken) else {
                let why = format!("{taken} tensors were taken of {} that were sent", self.placed);
                return Err(LinkError::Malformed(why));
            };
            if waiting < u64::from(ring.slots) {
                break;
            }
            if is_over || self.heard.changed().await.is_err() {
                return Err(LinkError::Reset);
            }
        }
        segment.put(place(self.placed, ring.slots), tensor);
        self.placed += 1;
        Ok(true)
    }
}

#[async_trait]
impl SendFrames for Lender {
    async fn send(&mut self, Frame { message, tensor }: Frame) -> Result<(), LinkError> {
        let message = message.to_vec();
        let (down, tensor) = match self.place(&tensor).await? {
            // It has a place: so it is no longer than that.
            true => (SharedDown::Placed(message, tensor.len() as u32), Bytes::new()),
            false => (SharedDown::Beside(message), tensor),
        };
        self.inner.carrier.send(Frame { message: down.encode()?, tensor }).await
    }

    fn finish(&mut self) -> Result<(), LinkError> {
        self.inner.finish()
    }

    fn reset(&mut self, why: Abort) {
        self.inner.abort(why);
    }

    async fn stopped(&mut self) {
        self.inner.stopped().await;
    }
}

/// Hears how the receiver stands, until it says nothing more.
async fn listen(mut receiver: FrameReceiver, tell: watch::Sender<Heard>) {
    while let Ok(Some(last)) = receiver.next::<SharedUp>().await {
        tell.send_modify(|heard| heard.last = Some(last));
    }
    tell.send_modify(|heard| heard.is_over = true);
}

// === impl Borrower ===

impl Borrower {
    fn look_at(&mut self, offer: &SegmentOffer) {
        let view = match self.most.take() {
            None => Err("it is not wanted".into()),
            Some(most) if offer.slots > most.slots || offer.slot_bytes > most.slot_bytes => {
                Err("it is larger than is wanted".into())
            }
            Some(_) => View::open(offer),
        };
        // A second offer is not looked at, and does not change the first.
        match view {
            Ok(view) => {
                tracing::debug!("tensors come through shared memory");
                self.view = Some(view);
            }
            Err(why) => tracing::debug!(why, "tensors come over the network"),
        }
        self.tell.send_replace(SharedUp { mapped: self.view.is_some(), taken: self.taken });
    }

    fn take(&mut self, length: u32) -> Result<Bytes, LinkError> {
        let view = self.view.as_ref();
        let copy = view.and_then(|view| view.copy(place(self.taken, view.slots()), length));
        let (Some(copy), Some(view)) = (copy, view) else {
            let why = format!("a tensor of {length} bytes is said to be where none can be");
            return Err(LinkError::Malformed(why));
        };
        self.taken += 1;
        // Told of by halves of the ring, or each tensor would cost a packet.
        if self.taken.is_multiple_of(u64::from(view.slots().div_ceil(2))) {
            self.tell.send_replace(SharedUp { mapped: true, taken: self.taken });
        }
        Ok(copy)
    }
}

#[async_trait]
impl ReceiveFrames for Borrower {
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            let Some((down, tensor)) = self.inner.next_with_tensor::<SharedDown>().await? else {
                return Ok(None);
            };
            // From here on nothing waits, so that a frame that came is never lost.
            let (message, tensor) = match down {
                SharedDown::Offer(offer) => {
                    self.look_at(&offer);
                    continue;
                }
                SharedDown::Beside(message) => (message, tensor),
                SharedDown::Placed(message, length) => (message, self.take(length)?),
            };
            return Ok(Some(Frame { message: message.into(), tensor }));
        }
    }
}

/// Says how it stands here, as often as the way back takes it.
async fn speak(mut sender: FrameSender, mut state: watch::Receiver<SharedUp>) {
    while state.changed().await.is_ok() {
        let up = *state.borrow_and_update();
        if sender.send(&up, WORD_DEADLINE).await.is_err() {
            return;
        }
    }
}

/// Where the n-th tensor is.
fn place(number: u64, slots: u32) -> u32 {
    // Less than `slots`, so it fits.
    (number % u64::from(slots)) as u32
}

/// Shorter tensors fit into the packet that their message needs anyway.
const SHORTEST: usize = 1 << 10;
/// A peer that does not take a few bytes for so long takes nothing at all.
const WORD_DEADLINE: Duration = Duration::from_secs(30);
