//! KV blocks that a rank's device gave up, in its host's memory and on its disk.
//!
//! The leader keeps the books ([`crate::kv::tiers`]); a rank has the bytes of its own share of each
//! block. Bytes are copied on the device thread, which alone reads and writes its KV; a disk has a
//! thread of its own, so that no step waits for it. What cannot be kept or read is not there:
//! whoever wanted it computes it.
//!
//! - [`shelf`]: the bytes, by slot; [`disk`]: those on the disk
//! - [`load`]: one sequence's blocks on their way back: which are there (pure)
//! - [`keeper`]: all of it for one rank

pub mod disk;
pub mod keeper;
pub mod load;
pub mod shelf;
