//! A whole cluster on one queue of events, from one seed.
//!
//! The cores are those that are shipped: the controller's office and planner, nodes, members,
//! groups with their leaders' engines, ranks with the executor that has no tensors, gateways with
//! placement and streams, leases, watches and the store. What is played is what carries their
//! words: actors, processes, the network and time. Chance is drawn from the seed, so a run is the
//! same each time.
//!
//! Left out are prefill apart from decode and blocks kept beside the devices, whose own simulations
//! stand in `actors/tests/it/engine`, tensor-parallel ranks, which wait for each other within a
//! call, and what gateways do for a request before and after it is a stream.
//!
//! - [`world`]: the queue, the clock, processes; [`net`]: lines between them; [`dice`]: chance
//! - [`words`]: what processes are told and say
//! - [`store`], [`lease`], [`watch`]: the store and those who use it
//! - [`control`], [`node`], [`member`], [`leader`], [`device`], [`gateway`], [`client`]: around the
//!   cores, as their actors are
//! - [`scenario`]: what a run is of; [`faults`]: what goes wrong in it
//! - [`check`]: what must hold all the same
//! - [`run`](mod@run): one seed, from its beginning to its end

pub(crate) mod check;
mod client;
mod control;
mod device;
mod dice;
pub(crate) mod faults;
mod gateway;
mod leader;
mod lease;
mod member;
mod net;
mod node;
pub(crate) mod run;
mod scenario;
mod store;
mod watch;
mod words;
mod world;
