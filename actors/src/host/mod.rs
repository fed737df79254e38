//! The door of a process: the one port where other hosts, newcomers and operators knock.
//!
//! - [`door`]: takes every connection and hands each conversation to the desk that answers it
//! - [`probe`]: answers how far away this host is

pub mod door;
pub mod probe;

pub use door::{Desk, Desks};
