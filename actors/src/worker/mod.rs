//! The worker: the actor that owns one device.
//!
//! - [`mirror`]: the core: plans in, a rank's batch out (pure); [`verify`]: what sampling is asked
//!   for it, and what its answers come to (pure)
//! - [`device`]: the device thread: receive, forward, send or sample
//! - [`pulse`]: its signs of life, as others see them; [`recorder`]: what it is at, for when it has
//!   died
//! - [`pipes`]: what connects a rank to the others; [`tokens`]: sampled tokens on their way
//! - [`grammar`]: which tokens may be chosen where an output's form is prescribed; [`reasoning`]:
//!   where that begins in an output (pure)
//! - [`transfer`]: KV blocks that leave for another group or come from one
//! - [`tier`]: KV blocks that the device gave up, and that its host keeps
//! - [`actor`]: owns the thread, reports its end
//! - [`fake`]: an executor without tensors, for tests and simulation

pub mod actor;
pub mod device;
pub mod fake;
pub mod grammar;
pub mod mirror;
pub mod pipes;
pub mod pulse;
mod reasoning;
pub mod recorder;
pub mod tier;
pub mod tokens;
pub mod transfer;
pub mod verify;
