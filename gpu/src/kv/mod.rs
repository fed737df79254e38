//! KV memory on the host: block *bytes*, while block *ids* are given out by the actors.
//!
//! - [`pool`]: one group's blocks for this rank's layers
//! - [`export`]: the canonical layout in which blocks travel between devices

pub mod export;
pub mod pool;

pub use pool::KvPool;
