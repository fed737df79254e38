//! The leader of a group: member 0's engine.
//!
//! - [`engine`]: the core: requests in, plans and chunks out; `ends`: how requests end (pure)
//! - [`adapters`]: LoRA adapters that come and go (pure)
//! - [`transfers`]: KV blocks to and from other groups; `fetch`: the side that wants them;
//!   `prefill`: the side that computes them; `load`: what tiers
//!   beside the device have of a request (pure)
//! - [`request`]: one request's choices and when each ends (pure)
//! - `refuse`: what is turned away at once (pure)
//! - [`settings`]: flags resolved against the model (pure)
//! - `speculate`: the flag that asks for drafts (pure)
//! - [`describe`]: what the world is told once the group serves (pure)
//! - [`observe`]: counts for `/metrics`
//! - [`ledger`]: what is told of the KV blocks, and how to catch up (pure); `rooted`: which of them
//!   can be found (pure); `cache`: tells it to gateways
//! - [`drain`]: how a leader ends without losing a request (pure)
//! - [`actor`]: carries events in; `acts`, `errands`: and effects out
//! - [`doors`]: one task per conversation, between a stream and the actor

pub mod actor;
mod acts;
pub mod adapters;
mod alone;
mod cache;
pub mod describe;
pub mod doors;
pub mod drain;
mod ends;
pub mod engine;
mod errands;
mod fetch;
pub mod ledger;
mod load;
pub mod observe;
mod prefill;
mod refuse;
pub mod request;
mod rooted;
pub mod settings;
mod speculate;
#[cfg(test)]
mod tests;
pub mod transfers;
