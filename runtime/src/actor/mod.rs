//! Actors across processes, as a thin layer over [`crate::transport`].
//!
//! - [`remote`]: a ref to whoever is at the other end of a conversation
//! - [`supervise`]: an actor that does not outlive its owner
//!
//! Actors themselves are ractor's. Its cluster crate stays unused: it is TCP-shaped, connects every
//! node to every node and synchronises global registries; here a conversation connects who needs
//! whom, and ends with them. No actor has a global name, because a simulated cluster lives in one
//! process.

pub mod remote;
pub mod supervise;

pub use remote::{CastError, Outbox, RemoteRef, TheirEnd, converse, remote_ref};
pub use supervise::Owned;
