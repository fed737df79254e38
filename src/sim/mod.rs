//! A cluster without machines: `troupe sim`.
//!
//! Each endpoint is a real engine core, and the real placement sends it requests; what is played is
//! the rest. A device takes as long for a step as a cost model says, its tokens are made up, and
//! time is a number that jumps from one event to the next. So thousands of endpoints fit into one
//! thread, and the same seed gives the same run to the last event.
//!
//! What placement knows is as late as in a cluster: loads are told when they change, but not more
//! often than every 50 ms, blocks in the ledger's batches.
//!
//! Deliberately absent: the network (it takes no time), flow control and admission at the gateway
//! (all that comes is placed at once), prefill apart from decode, KV from peers, failures.
//!
//! - [`synthetic`], [`trace`]: what is asked for; [`load`]: conversations made of it
//! - [`profiles`]: what is compared; [`placing`]: one of them at work
//! - [`cluster`]: what endpoints are like; [`endpoint`]: an engine with its device; [`cost`]: how
//!   long a step takes
//! - [`core`]: one run, event by event; [`queue`]: what comes next
//! - [`outcome`]: what came of it; [`report`]: that as figures

pub(crate) mod cluster;
pub(crate) mod core;
pub(crate) mod cost;
mod endpoint;
pub(crate) mod load;
mod outcome;
mod placing;
pub(crate) mod profiles;
mod queue;
pub(crate) mod report;
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;
pub(crate) mod trace;
