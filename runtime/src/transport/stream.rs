//! One conversation: frames out, frames in, and how each direction ends.
//!
//! A direction ends in order ([`FrameSender::finish`]) or is aborted (the sender is dropped, or a
//! send was given up half way). What carriers implement is [`SendFrames`] and [`ReceiveFrames`];
//! everything that must be the same for all of them, such as what a passed deadline does to a
//! direction, is done once, here.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize, api::high::HighValidator, bytecheck::CheckBytes};

use super::{LinkError, MAX_TENSOR_BYTES, error::Abort};
use crate::wire::Message;

/// Both directions of one conversation.
#[derive(Debug)]
pub struct Stream {
    /// To the peer.
    pub sender: FrameSender,
    /// From the peer.
    pub receiver: FrameReceiver,
}

/// Sends frames. Dropping it without [`FrameSender::finish`] resets the direction: the peer's
/// receive fails with [`LinkError::Reset`], which is how an abort is told from an end.
pub struct FrameSender {
    pub(crate) carrier: Box<dyn SendFrames>,
    state: SenderState,
}

/// Receives frames. Dropping it tells the peer to stop sending.
pub struct FrameReceiver {
    pub(crate) carrier: Box<dyn ReceiveFrames>,
}

/// One message, one tensor, or a message with a tensor behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// An encoded [`Message`].
    pub message: Bytes,
    /// Raw tensor bytes; often empty.
    pub tensor: Bytes,
}

/// What a carrier implements to send.
#[async_trait]
pub(crate) trait SendFrames: Send {
    /// Hands a frame to the carrier; waits while the peer's window is full. If it is canceled
    /// nothing but `reset` is called afterwards.
    async fn send(&mut self, frame: Frame) -> Result<(), LinkError>;
    /// No more frames follow: what was sent will be delivered.
    fn finish(&mut self) -> Result<(), LinkError>;
    /// Gives the direction up; the peer is told why, and frames on their way may be lost.
    fn reset(&mut self, why: Abort);
    /// Returns when the peer no longer reads.
    async fn stopped(&mut self);
}

/// What a carrier implements to receive.
#[async_trait]
pub(crate) trait ReceiveFrames: Send {
    /// The next frame, or `None` after the peer's finish. Safe to cancel: a frame is lost never.
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError>;
}

/// Where a sending direction stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SenderState {
    Open,
    /// A send is under way; found at the start of another call, it was given up half way.
    Sending,
    Finished,
    /// Reset already.
    GivenUp,
}

// === impl FrameSender ===

impl FrameSender {
    pub(crate) fn new(carrier: Box<dyn SendFrames>) -> Self {
        Self { carrier, state: SenderState::Open }
    }

    /// Sends a message. Not safe to cancel: a send that was given up half way, by its deadline or
    /// by dropping its future, breaks the direction, because half a frame cannot be taken back.
    ///
    /// # Errors
    /// [`LinkError`] within `deadline`, which also bounds waiting for the peer to read.
    pub async fn send<T>(&mut self, message: &T, deadline: Duration) -> Result<(), LinkError>
    where
        T: EncodeMessage,
    {
        self.send_with_tensor(message, Bytes::new(), deadline).await
    }

    /// Sends a message with a tensor behind it. The bytes are not copied before the carrier's own
    /// buffer.
    ///
    /// # Errors
    /// As [`FrameSender::send`].
    pub async fn send_with_tensor<T>(
        &mut self,
        message: &T,
        tensor: Bytes,
        deadline: Duration,
    ) -> Result<(), LinkError>
    where
        T: EncodeMessage,
    {
        if tensor.len() > MAX_TENSOR_BYTES {
            let bytes = tensor.len();
            let why = format!("a tensor of {bytes} bytes is over the limit of {MAX_TENSOR_BYTES}");
            return Err(LinkError::Malformed(why));
        }
        let frame = Frame { message: message.encode()?, tensor };
        self.begin()?;
        self.state = SenderState::Sending;
        match tokio::time::timeout(deadline, self.carrier.send(frame)).await {
            Ok(Ok(())) => {
                self.state = SenderState::Open;
                Ok(())
            }
            Ok(Err(error)) => {
                self.give_up();
                Err(error)
            }
            Err(_) => {
                self.give_up();
                Err(LinkError::Deadline { what: "sending a frame", deadline })
            }
        }
    }

    /// Ends this direction in order.
    ///
    /// # Errors
    /// [`LinkError`] if it is over already.
    pub fn finish(&mut self) -> Result<(), LinkError> {
        self.begin()?;
        self.carrier.finish()?;
        self.state = SenderState::Finished;
        Ok(())
    }

    /// Returns when the peer no longer reads (it dropped its receiver, or the connection is gone).
    pub async fn stopped(&mut self) {
        self.carrier.stopped().await;
    }

    /// Refuses to go on with a direction that is over.
    fn begin(&mut self) -> Result<(), LinkError> {
        match self.state {
            SenderState::Open => Ok(()),
            SenderState::Sending => {
                self.give_up();
                Err(LinkError::Over("an earlier send was given up half way"))
            }
            SenderState::Finished => Err(LinkError::Over("it was finished")),
            SenderState::GivenUp => Err(LinkError::Over("an earlier send failed")),
        }
    }

    fn give_up(&mut self) {
        self.abort(Abort::Dropped);
    }

    /// Gives this direction up, for a reason.
    pub(crate) fn abort(&mut self, why: Abort) {
        self.state = SenderState::GivenUp;
        self.carrier.reset(why);
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        if matches!(self.state, SenderState::Open | SenderState::Sending) {
            self.carrier.reset(Abort::Dropped);
        }
    }
}

// === impl FrameReceiver ===

impl FrameReceiver {
    pub(crate) fn new(carrier: Box<dyn ReceiveFrames>) -> Self {
        Self { carrier }
    }

    /// The next message, or `None` after the peer's finish. Waits without limit: for conversations
    /// whose owner has a deadline or a liveness rule of its own. Safe to cancel.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn next<T: DecodeMessage>(&mut self) -> Result<Option<T>, LinkError> {
        Ok(self.next_with_tensor::<T>().await?.map(|(message, _)| message))
    }

    /// As [`FrameReceiver::next`], with the tensor behind the message.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn next_with_tensor<T: DecodeMessage>(
        &mut self,
    ) -> Result<Option<(T, Bytes)>, LinkError> {
        let Some(frame) = self.carrier.receive().await? else { return Ok(None) };
        Ok(Some((T::decode(&frame.message)?, frame.tensor)))
    }

    /// The next message, which must come within `deadline`.
    ///
    /// # Errors
    /// [`LinkError::Ended`] if the peer finished instead.
    pub async fn expect<T: DecodeMessage>(&mut self, deadline: Duration) -> Result<T, LinkError> {
        tokio::time::timeout(deadline, self.next())
            .await
            .map_err(|_| LinkError::Deadline { what: "receiving a frame", deadline })??
            .ok_or(LinkError::Ended)
    }
}

// === impl EncodeMessage, DecodeMessage ===

/// A message that can be written; implemented for every [`Message`].
pub trait EncodeMessage: Sync {
    /// As bytes.
    ///
    /// # Errors
    /// [`LinkError::Malformed`] if no receiver would take it.
    fn encode(&self) -> Result<Bytes, LinkError>;
}

/// A message that can be read; implemented for every [`Message`].
pub trait DecodeMessage: Sized {
    /// From bytes.
    ///
    /// # Errors
    /// [`LinkError::Malformed`].
    fn decode(bytes: &[u8]) -> Result<Self, LinkError>;
}

impl<T> EncodeMessage for T
where
    T: Message
        + Sync
        + for<'a> Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    fn encode(&self) -> Result<Bytes, LinkError> {
        Ok(Bytes::from_owner(crate::wire::encode(self)?))
    }
}

impl<T> DecodeMessage for T
where
    T: Message + Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rkyv::rancor::Error>>
        + Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    fn decode(bytes: &[u8]) -> Result<Self, LinkError> {
        Ok(crate::wire::decode(bytes)?)
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameSender")
    }
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameReceiver")
    }
}
