//! A node: one process of a host, which starts the host's members and reports them.
//!
//! - [`core`]: what should run here, and what does (pure)
//! - [`actor`]: watches the store, carries events in and effects out
//! - [`child`]: members as child processes; `died`: what their ends say
//! - [`inside`]: members inside this process
//! - [`logs`]: what child processes have said, on disk, to be read from afar
//! - `store`: its writes and its watches
//! - `epochs`: the highest epochs seen, on disk
//! - `specs`: all specs, on disk, and given back to a store that lost them

pub mod actor;
pub mod child;
pub mod core;
mod died;
mod epochs;
pub mod inside;
pub mod logs;
mod specs;
mod store;
