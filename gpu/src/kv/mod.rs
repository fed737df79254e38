//! KV memory on the host: block *bytes*, while block *ids* are given out by the actors.
//!
//! - [`dtype`]: what elements are stored as
//! - [`pool`]: one group's blocks for this rank's layers
//! - [`export`]: the canonical layout in which blocks travel between devices
//! - [`save`]: whole blocks as they lie here, for this rank's host to keep

pub mod dtype;
pub mod export;
pub mod pool;
pub mod save;

pub use dtype::KvDtype;
pub use pool::KvPool;
