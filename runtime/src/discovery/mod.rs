//! `Registry`: how processes find each other.
//!
//! A small, strict contract over a key-value store: put under a lease, watch a prefix without a
//! gap, transactions that compare before they write. Two implementations pass one shared contract
//! test:
//! `embedded` (one process) and `etcd` (many). Load, block events and chunks never go through it:
//! its writes do not grow with requests. Writes compare the store's `incarnation`, so that what was
//! read before a wipe is not written after it, and a `witness` tells what somebody deleted from
//! what the store has lost. Values are JSON with an `apiVersion`; keys are made in `keys` and
//! nowhere else, and each has one writer.

mod backed;
pub mod declared;
pub mod directory;
pub mod embedded;
pub mod etcd;
mod incarnation;
mod keeper;
pub mod keys;
mod registry;
pub mod rehearsal;
mod store;
mod swap;
mod watcher;
mod witness;

pub use incarnation::Incarnation;
pub use registry::{Compare, Entry, Lease, Op, Registry, RegistryError, Txn, Watch, WatchEvent};
pub use swap::{Step, SwapError, swap};
pub use witness::{Testimony, Witness};
