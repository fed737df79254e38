//! Faults on purpose, in a real cluster: what `troupe chaos` is made of.
//!
//! - [`target`]: what an operator names (a member, a host, a gateway, the controller), and where
//!   the cluster says that it listens
//! - [`cut`]: a host whose packets are dropped, and how that is undone
//! - [`process`]: the process of this host that listens there, and signals to it
//! - [`stream`]: a stream during which it happens, held against the same one undisturbed
//! - [`report`]: what came of several of them, as a table or as JSON
//!
//! A process is found by its socket and never by its name or its number alone: two clusters may
//! share a host, and every other way to find it may hit the wrong one.

pub(crate) mod cut;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod stream;
pub(crate) mod target;
