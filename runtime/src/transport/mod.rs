//! `Link`: how frames and tensors move between members, whoever carries them.
//!
//! One contract, three carriers that pass one shared contract test: [`local`] (in-process),
//! [`quic`] (QUIC with mutual TLS, [`tls`]; large tensors of classes that may, over TCP) and
//! [`faulty`], a seeded wrapper that delays, stalls, resets, partitions and crashes. A
//! conversation is one [`Stream`]; its first frame names it ([`Conversation`]). Control,
//! activations and KV never share a connection ([`Class`]). Every wait takes a deadline. Device
//! threads, which must not know of async, use [`bulk`]. Between processes of one host tensors of a
//! conversation may go through memory ([`shm`]).

pub mod bulk;
mod conversation;
mod error;
pub mod faulty;
mod frame;
pub mod local;
mod peer;
pub mod quic;
mod retry;
pub mod shm;
mod stream;
pub mod tls;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use conversation::{Class, Conversation, permits};
pub use error::LinkError;
pub use faulty::{FaultProfile, Faults, FaultyLink};
pub use local::{LocalLink, LocalNetwork};
pub use peer::{PeerAddr, PeerIdentity, PeerRole};
pub use quic::{QuicConfig, QuicError, QuicLink, TransportRuntime, knock};
pub use retry::{Patience, connect_with_retry};
pub use stream::{DecodeMessage, EncodeMessage, Frame, FrameReceiver, FrameSender, Stream};

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

    /// Answers for a while in the place of a process that had this address and this link's
    /// identity, and is gone without a word: its peers learn it at once, where the carrier can say
    /// so, and need not wait until they have heard nothing for too long.
    fn answer_for(&self, _gone: &PeerAddr) {}
}

/// The port of a host's door, unless it is told another one.
pub const DOOR_PORT: u16 = 7443;

/// One authenticated connection. It closes when its last handle and its last stream are dropped.
#[async_trait]
pub trait Connection: Send + Sync + fmt::Debug {
    /// Who is at the other end, as its certificate says (in-process: as it was built).
    fn peer(&self) -> &PeerIdentity;

    /// What it carries.
    fn class(&self) -> Class;

    /// Opens a conversation and sends its first frame.
    ///
    /// # Errors
    /// [`LinkError`] within `deadline`; [`LinkError::Forbidden`] if the conversation belongs on a
    /// connection of another class. That the peer refuses our role shows at the first receive.
    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError>;

    /// The next conversation that the peer opened, its first frame already read. A stream that
    /// names nothing within a second, names nonsense or may not be opened by this peer is reset and
    /// never returned; meanwhile others are.
    ///
    /// # Errors
    /// [`LinkError::Closed`] once the connection is.
    async fn accept(&self) -> Result<(Conversation, Stream), LinkError>;

    /// Returns when the connection is over, with the reason.
    async fn closed(&self) -> LinkError;

    /// Ends it; the peer sees `reason`.
    fn close(&self, reason: &str);
}
