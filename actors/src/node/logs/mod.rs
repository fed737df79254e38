//! What members have said on their standard error, in bounded files under the node's data
//! directory.
//!
//! `logs/<namespace>/<service>-<group>/<epoch>-<member>.log`, and `.log.1` for what came before it.
//! A member that fails mostly says why there, and often its process is the only one that knew; so
//! its words outlive it, and somebody far away can read them (`troupe logs`).
//!
//! - [`shelf`]: which logs there are, and when they go
//! - `sink`: writes one, line by line, while its member runs
//! - [`reader`]: reads them to control hosts, at the host's door
//! - [`follow`]: the last lines of one, and every line after them
//!
//! Members inside the node's own process have no log of their own: theirs is the process's.

pub mod follow;
pub mod reader;
pub mod shelf;
mod sink;
#[cfg(test)]
mod tests;

pub use follow::Follow;
pub use reader::Reader;
pub use shelf::{Log, Shelf};
pub(super) use sink::copy;
