//! Floor 2: the actors of a host, and the pure cores that decide for them.
//!
//! # Layout
//! - [`node`]: one per process of a host: inventory, spawns members, reports them
//! - [`controller`]: makes declared services real on the nodes, and keeps them so
//! - [`member`]: one process's part of a group: its ranks, and on member 0 the leader
//! - [`group`]: which member hosts which ranks; from the first hello to the end
//! - [`leader`]: the engine: requests in, plans and chunks out
//! - [`scheduler`], [`kv`]: who runs in the next step, and on which blocks
//! - [`worker`]: owns one device
//! - [`host`]: the one door of a process to other hosts: joining, operating, probing
//! - [`guest`]: hosts that share the store of one of them, where there is no etcd
//!
//! Beside every `actor.rs` (ractor, async, short) stands a core: a plain function of state, event
//! and `now` that returns effects. Cores know no clock, no runtime and no randomness, so that a
//! whole cluster can be simulated from a seed.

pub mod controller;
pub mod group;
pub mod guest;
pub mod host;
pub mod kv;
pub mod leader;
pub mod member;
pub mod node;
pub mod operate;
pub mod scheduler;
#[cfg(test)]
mod scripts;
pub mod worker;
