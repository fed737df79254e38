//! Load on a cluster of real processes, and faults meanwhile: what `make storm`, `make soak-real`
//! and the tests beside them share.
//!
//! - [`fleet`]: a control host, a gateway and hosts, each a process, with groups of two stages
//! - [`exam`]: questions whose answers are known, asked and compared
//! - [`overload`]: more than the service can do, and what those see that are let in
//! - [`storm`]: many streams at once while groups are killed without a pause
//! - [`soak`]: a mixed load for hours, with faults, and what processes hold meanwhile
//! - [`usage`]: what a process holds: memory, open files, threads
//!
//! Whoever mounts this has `etcd_process`, `golden`, `http`, `joining`, `operator`, `process`,
//! `question` and `random` beside it.

pub(crate) mod exam;
pub(crate) mod fleet;
pub(crate) mod overload;
pub(crate) mod soak;
pub(crate) mod storm;
pub(crate) mod usage;
