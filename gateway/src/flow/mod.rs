//! Who goes first when endpoints have no room: between admission and placement.
//!
//! As long as a model's endpoints are not saturated every request passes at once. When they are,
//! requests wait here and not at the leaders, because only here are all tenants' requests seen: in
//! bands by priority, and in a band each tenant gets its share of tokens, whoever asks more often.
//! Requests of a priority below zero may be shed and do not wait at all.
//!
//! Names and defaults are those of llm-d's flow control. What differs: shares between tenants are
//! on from the start, tenants are who they prove to be (`tenants`), load that was not heard of for
//! a while is not taken for saturation, and who would wait too long is told so when he comes.
//!
//! - [`core`]: who waits, who is next, who is turned away (pure)
//! - [`saturation`]: whether endpoints have room (pure)
//! - [`drain`]: how fast requests are worked off, and so when to try again (pure)
//! - [`expected`]: how long one that comes now would wait (pure)
//! - [`gate`]: what a request goes through, one core per model

pub(crate) mod core;
mod drain;
mod expected;
pub(crate) mod gate;
pub(crate) mod saturation;
