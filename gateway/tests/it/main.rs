//! Everything this crate tests through its public face, in one binary so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;

mod adapters;
mod chat;
mod completions;
mod drain;
mod embeddings;
mod endpoints;
mod errors;
mod flow;
mod foreign;
mod holding;
mod hostile;
mod logprobs;
mod openapi;
mod placement;
mod probes;
mod random;
mod routes;
mod sockets;
mod structured;
mod support;
mod thinking;
mod tools;
