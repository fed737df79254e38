//! The Endpoint Picker Protocol: this gateway's placement behind somebody else's proxy.
//!
//! A proxy that speaks Envoy's external processing (`ext_proc`, version 3) tells what it received
//! and asks what to do with it; the answer is the request as it was, with a header and metadata
//! that name its endpoint. Who may ask, routes, aliases, flow control, priorities and placement are
//! those of this gateway's own HTTP, because requests go through the same layers ([`front`]): only
//! what stands behind them is different. A request for an endpoint that is not this cluster's goes
//! straight there; one for a model of this cluster goes to this gateway, which alone speaks to its
//! leaders.
//!
//! - [`server`]: gRPC, and who is healthy; [`secure`]: over TLS
//! - `door`: who is let in; `guard`: what one connection may cost
//! - `conversation`: one request of the proxy's client, from its headers to the end of its answer
//! - `words`: what is said in it, made of what was decided (pure)
//! - [`front`]: who answers it; [`pick`]: how that is told
//! - `messages`: the protocol's messages, as far as they are used

mod conversation;
mod door;
pub(crate) mod front;
mod guard;
mod messages;
pub(crate) mod pick;
pub(crate) mod secure;
pub(crate) mod server;
mod words;
