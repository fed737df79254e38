//! Which endpoint answers a request: `Filter -> Scorer -> Picker` over what is ready right now.
//!
//! Placement is a plain function of a [`Query`] and the [`Candidate`]s: no network, no clock. Names
//! and roles follow the Gateway API Inference Extension. Plug-ins are one small file each and are
//! named in one table, [`config::table`].
//!
//! - `query`: what is to be placed, and where it could go
//! - [`handler`]: which profiles a request goes through; [`profile`]: plug-ins with weights
//! - [`scene`]: the candidates of one decision, as columns
//! - [`filter`]: who cannot take the request; [`scorer`]: who should, 0 to 1; [`picker`]: who will
//! - [`config`]: the plug-ins by name, and files that say which are used; [`defaults`]: else
//! - [`latency`]: how soon each would answer, learned; [`explain`]: what was decided, and why
//! - [`breaker`]: who keeps failing is left alone for a while
//! - [`session`], [`topology`], [`dice`], `duty`: what plug-ins share
//! - `peers`: KV that another endpoint has cached; `others`: what other gateways have there
//! - `pools`: who serves what; [`underway`]: an attempt, counted and measured
//! - [`directory`]: the live table of endpoints, kept by one [`keeper`] task per endpoint
//! - `follower`: which endpoints are kept, as the store says; [`view`]: what to make of its silence
//! - `endpoints`: the table alone, to be measured; [`trial`]: decisions alone;
//!   [`rehearsal`]: all of it, among endpoints that a simulator plays
//! - [`endpoint`]: one ready endpoint: connection, load, what this gateway has in flight there;
//!   `cells`: its numbers, side by side with all others'
//! - [`prefix`]: which of them hold how much of a prompt already
//! - `fence`: ends what still waits at an incarnation that is over

pub(crate) mod breaker;
mod cells;
pub(crate) mod config;
mod defaults;
mod dice;
pub(crate) mod directory;
mod duty;
pub(crate) mod endpoint;
pub(crate) mod endpoints;
pub(crate) mod explain;
pub(crate) mod fence;
pub(crate) mod filter;
pub(crate) mod follower;
pub(crate) mod handler;
pub(crate) mod keeper;
pub(crate) mod latency;
mod others;
pub(crate) mod peers;
pub(crate) mod picker;
mod pools;
pub(crate) mod prefix;
pub(crate) mod profile;
mod query;
pub(crate) mod rehearsal;
pub(crate) mod scene;
pub(crate) mod scorer;
pub(crate) mod services;
pub(crate) mod session;
#[cfg(test)]
mod tests;
mod topology;
pub(crate) mod trial;
pub(crate) mod underway;
pub(crate) mod view;

pub(crate) use duty::Duty;
pub(crate) use query::{Affinity, Busy, Candidate, GoesOn, Placed, Query};
