//! The clients of our own commands: a small one over HTTP for OpenAI's API, one base URL at a time,
//! and in [`operate`] what the operator's commands share.
//!
//! - [`http`]: requests, with a key and further headers; `serve` asks with it whether the gateway
//!   is healthy, `chat` and `bench` send with it
//! - [`answer`]: whole answers with a deadline, asked again where the server says "not now"
//! - [`events`]: answers that come as server-sent events
//! - [`flow`]: many jobs at once, with a bound, their results in the order of the jobs
//!
//! HTTP/1.1 without TLS: in front of a server with TLS there is a proxy, and so is one behind it.

pub(crate) mod answer;
pub(crate) mod events;
pub(crate) mod flow;
pub(crate) mod http;
pub(crate) mod operate;
