//! A member: one process's part of a group: its ranks, and on member 0 the leader.
//!
//! - [`core`]: from launch to exit (pure)
//! - [`actor`]: supervises leader and workers, carries events in; `acts`: and effects out
//! - [`front`]: takes conversations and hands them on
//! - [`line`](mod@line): the conversation with the leader
//! - [`wiring`]: connects ranks to their neighbours
//! - [`pipe`]: frames between a node and its child
//! - [`lines`]: KV blocks to and from ranks of other groups; [`connections`]: ways to them
//! - [`load`]: where models come from; [`checkpoint`]: from folders
//!
//! In a cluster a member is a child process of its node, because a hung kernel or collective ends
//! only with its process; in a one-process `serve` it lives inside, and nothing else differs.

pub mod actor;
pub(crate) mod acts;
pub mod checkpoint;
pub mod connections;
pub mod core;
pub mod front;
pub mod line;
pub mod lines;
pub mod load;
pub mod pipe;
pub mod wiring;
