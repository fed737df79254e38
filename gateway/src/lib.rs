//! Floor 3: HTTP and OpenAI's API in front, the cluster behind.
//!
//! One request, straight through: `routes` read it and ask for an `admission` permit,
//! `ingress` checks it once and for all and makes it tokens, `placement` picks an endpoint,
//! `client` hands it to that endpoint's leader, and `egress` turns what comes back into text,
//! events and usage. Dropping any part of it drops everything behind it: that is how a client's
//! going away aborts its request.
//!
//! # Layout
//! - `server`: which path goes where, the accept loop, draining; `connection`: slow clients;
//!   `joined`: small messages in one piece;
//!   `passage`: what every request passes
//! - `config`: settings; `state`: what handlers share
//! - `auth`, `tenants`, `admission`, `body`, `fields`: who may ask, how many at once, how large
//! - `rules`: what is declared of paths, shares and priorities
//! - `foreign`: endpoints that are not ours
//! - `epp`: placement for another proxy, by the Endpoint Picker Protocol
//! - `flow`: who goes first when endpoints have no room
//! - `error`: every failure as a response
//! - [`openai`]: the API's types; `routes`: its endpoints; `openapi`: their description
//! - `ingress`: request to `ingress::prepared::Prepared`; `model`: tokenizers and templates
//! - `adapters`: LoRA adapters that come and go at endpoints
//! - `placement`: which endpoint; `client`: one attempt there; `holding`: waiting for one
//! - `egress`: chunks to text to answer
//! - `suspects`: requests that processes may have died of
//! - `metrics`: what is measured
//! - `simulated`: its cores alone, for simulators
//!
//! What is deliberately absent: any knowledge of how an engine works. Gateways and engines meet in
//! `troupe_runtime::wire`, and this crate never depends on theirs.

mod adapters;
mod admission;
mod auth;
mod body;
mod client;
mod config;
mod connection;
mod egress;
mod epp;
mod error;
mod fields;
mod flow;
mod foreign;
mod gateway;
mod holding;
mod ingress;
mod joined;
mod metrics;
mod model;
pub mod openai;
mod openapi;
mod passage;
mod placement;
mod routes;
mod rules;
mod server;
mod simulated;
mod state;
mod suspects;
mod tenants;

pub use config::{FlowControl, GatewayConfig, Resume};
pub use egress::parse::family::{Family, ParserChoice, ReasoningFamily, ToolFamily, UnknownParser};
pub use epp::secure::PickerTls;
pub use foreign::config::ForeignEndpoint;
pub use gateway::{GatewayError, GatewayHandle, Surroundings, serve};
pub use placement::{
    config::{PickerConfig, PickerError},
    endpoints::Endpoints,
    follower::knows_a_cluster,
    prefix::measure::PrefixIndex,
    rehearsal::{Rehearsal, Rehearsed, Sent},
    trial::{Trial, TrialPrompt},
};
pub use simulated::{
    places::{Keeping, SimulatedAttempt, SimulatedGateway, SimulatedPlace, StoreSays, Wanted},
    stream::{Happened, SimulatedEnd, SimulatedStream, Told, Wants},
};
pub use tenants::Tenant;
