//! The worker: the actor that owns one device.
//!
//! - [`mirror`]: the core: plans in, a rank's batch and sampling requests out (pure)
//! - [`device`]: the device thread: receive, forward, send or sample
//! - [`pipes`]: what connects a rank to its neighbours
//! - [`actor`]: owns the thread, reports its end
//! - [`fake`]: an executor without tensors, for tests and simulation

pub mod actor;
pub mod device;
pub mod fake;
pub mod mirror;
pub mod pipes;
