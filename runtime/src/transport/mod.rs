//! `Link`: how frames and tensors move between members, whoever carries them.
//!
//! One contract, three carriers that pass one shared contract test: in-process, QUIC with mutual
//! TLS, and a seeded wrapper that drops, delays, reorders, partitions and crashes. A conversation is
//! one [`Stream`]; its first frame names it ([`Conversation`]). Control, activations and KV never
//! share a connection ([`Class`]). Every wait takes a deadline.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::wire::{Message, WireError};

/// No tensor in one frame may be longer than this; longer ones are sent in several.
pub const MAX_TENSOR_BYTES: usize = 256 << 20;

/// A process's end of the network: connects to others and is connected to.
///
/// Cheap to share. Dropping the last handle closes every connection.
#[async_trait]
pub trait Link: Send + Sync + fmt::Debug {
    /// Where others reach this process.
    fn address(&self) -> PeerAddr;

    /// A connection to `peer` for one class of traffic. Does not retry: the caller owns the policy
    /// (see [`crate::backoff`]).
    ///
    /// # Errors
    /// [`LinkError`] within `deadline`, never later.
    async fn connect(
        &self,
        peer: &PeerAddr,
        class: Class,
        deadline: Duration,
    ) -> Result<Arc<dyn Connection>, LinkError>;

    /// The next connection that a peer made. Waits without limit, as a server does; returns `None`
    /// once the link is closed. A peer that fails its handshake is logged and never returned.
    async fn accept(&self) -> Option<Arc<dyn Connection>>;

    /// Closes every connection at once; peers see `reason`.
    async fn close(&self, reason: &str);
}

/// One authenticated connection. Dropping the last handle closes it.
#[async_trait]
pub trait Connection: Send + Sync + fmt::Debug {
    /// Who is at the other end, as its certificate says (in-process: as it was built).
    fn peer(&self) -> &PeerIdentity;

    /// What it carries.
    fn class(&self) -> Class;

    /// Opens a conversation and sends its first frame.
    ///
    /// # Errors
    /// [`LinkError`] within `deadline`.
    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError>;

    /// The next conversation that the peer opened, its first frame already read. A stream that
    /// names nothing within a second, or names nonsense, is reset and never returned.
    ///
    /// # Errors
    /// [`LinkError::Closed`] once the connection is.
    async fn accept(&self) -> Result<(Conversation, Stream), LinkError>;

    /// Returns when the connection is over, with the reason.
    async fn closed(&self) -> LinkError;

    /// Ends it; the peer sees `reason`.
    fn close(&self, reason: &str);
}

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
pub struct FrameSender(pub(crate) Box<dyn SendFrames>);

/// Receives frames. Dropping it tells the peer to stop sending.
pub struct FrameReceiver(pub(crate) Box<dyn ReceiveFrames>);

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
    /// Hands a frame to the carrier; waits while the peer's window is full.
    async fn send(&mut self, frame: Frame) -> Result<(), LinkError>;
    /// No more frames follow: what was sent will be delivered.
    fn finish(&mut self) -> Result<(), LinkError>;
    /// The peer no longer reads.
    async fn stopped(&mut self);
}

/// What a carrier implements to receive.
#[async_trait]
pub(crate) trait ReceiveFrames: Send {
    /// The next frame, or `None` after the peer's finish. Safe to cancel: a frame is lost never.
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError>;
}

/// Which traffic a connection carries; classes never share one, so that a bulk transfer cannot hold
/// up a heartbeat.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Requests, plans, results, heartbeats.
    Control,
    /// Hidden states and collectives.
    Activations,
    /// KV blocks.
    Kv,
}

/// What a stream is about; its first frame.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conversation {
    /// [`crate::wire::generate`].
    Generate,
    /// [`crate::wire::group`].
    Group,
    /// [`crate::wire::status`].
    Status,
    /// [`crate::wire::kv`]: tensors one way.
    Bulk(crate::wire::kv::BulkOpen),
}

/// Where a process is reached, written `quic://host:port` or `local://number`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerAddr {
    /// In this process, by its number in a `LocalNetwork`.
    Local(u64),
    /// Over QUIC.
    Quic(SocketAddr),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which cluster's CA vouches for it.
    pub cluster: String,
    /// What it may do.
    pub role: PeerRole,
    /// Which host.
    pub node: crate::id::NodeId,
}

/// What a certificate allows its holder to do. A role may open only its own conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerRole {
    /// Controller and gateway.
    Control,
    /// Gateway only.
    Gateway,
    /// A host that runs members.
    Node,
}

/// Why moving bytes failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// No answer in time.
    #[error("{what} took longer than {deadline:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        deadline: Duration,
    },
    /// Nobody is there, or it refused.
    #[error("cannot connect to {peer}: {why}")]
    Unreachable {
        /// Whom.
        peer: PeerAddr,
        /// What the carrier said.
        why: String,
    },
    /// The connection is over.
    #[error("the connection to {peer} is closed: {why}")]
    Closed {
        /// To whom.
        peer: String,
        /// The reason given, or what was noticed.
        why: String,
    },
    /// The peer dropped this conversation.
    #[error("the peer dropped the conversation")]
    Reset,
    /// The peer ended the conversation in order, though a frame was expected.
    #[error("the peer ended the conversation early")]
    Ended,
    /// The peer sent what is no frame or no such message.
    #[error("the peer sent a malformed frame: {0}")]
    Malformed(String),
    /// The peer's certificate does not allow this.
    #[error("not allowed: {0}")]
    Forbidden(String),
}

// === impl FrameSender ===

impl FrameSender {
    /// Sends a message.
    ///
    /// # Errors
    /// [`LinkError`] within `deadline`, which also bounds waiting for the peer to read.
    pub async fn send<T>(&mut self, message: &T, deadline: Duration) -> Result<(), LinkError>
    where
        T: EncodeMessage,
    {
        self.send_with_tensor(message, Bytes::new(), deadline).await
    }

    /// Sends a message with a tensor behind it.
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
        let frame = Frame { message: message.encode()?, tensor };
        tokio::time::timeout(deadline, self.0.send(frame))
            .await
            .map_err(|_| LinkError::Deadline { what: "sending a frame", deadline })?
    }

    /// Ends this direction in order.
    ///
    /// # Errors
    /// [`LinkError`] if it is over already.
    pub fn finish(&mut self) -> Result<(), LinkError> {
        self.0.finish()
    }

    /// Returns when the peer no longer reads (it dropped its receiver, or the connection is gone).
    pub async fn stopped(&mut self) {
        self.0.stopped().await;
    }
}

// === impl FrameReceiver ===

impl FrameReceiver {
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
        let Some(frame) = self.0.receive().await? else { return Ok(None) };
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
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<
            rkyv::api::high::HighValidator<'a, rkyv::rancor::Error>,
        > + Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    fn decode(bytes: &[u8]) -> Result<Self, LinkError> {
        Ok(crate::wire::decode(bytes)?)
    }
}

impl From<WireError> for LinkError {
    fn from(error: WireError) -> Self {
        Self::Malformed(crate::error::chain(&error))
    }
}

// === impl PeerAddr ===

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(number) => write!(f, "local://{number}"),
            Self::Quic(address) => write!(f, "quic://{address}"),
        }
    }
}

impl FromStr for PeerAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no address, quic://HOST:PORT is right");
        if let Some(number) = text.strip_prefix("local://") {
            return number.parse().map(Self::Local).map_err(|_| wrong());
        }
        let address = text.strip_prefix("quic://").ok_or_else(wrong)?;
        address.parse().map(Self::Quic).map_err(|_| wrong())
    }
}

impl Message for Conversation {
    const NAME: &'static str = "Conversation";

    fn check(&self) -> Result<(), String> {
        Ok(())
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
