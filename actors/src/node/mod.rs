//! A node: one process of a host, which starts the host's members and reports them.
//!
//! - [`core`]: what should run here, and what does (pure)
//! - [`actor`]: watches the store, carries events in and effects out
//! - [`spawn`]: members as child processes
//! - [`inside`]: members inside this process

pub mod actor;
pub mod core;
pub mod inside;
pub mod spawn;
