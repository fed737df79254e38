//! The door of a process: the one port where other hosts, newcomers and operators knock.
//!
//! - [`door`]: takes every connection and hands each conversation to the desk that answers it
//! - [`probe`]: answers how far away this host is
//! - [`join`]: makes and renews identities; `admission`: who is let in (pure); [`tokens`]: join
//!   tokens in the store; [`revoked`]: who is let in no more

pub mod admission;
pub mod door;
pub mod join;
pub mod probe;
pub mod revoked;
pub mod tokens;

pub use door::{Desk, Desks};
