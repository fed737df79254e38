//! Everything this crate tests through its public face, in one binary so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod adapters;
mod apart;
mod cache;
mod cluster;
mod drain;
mod engine;
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod guests;
mod kept;
mod operate;
mod overtaken;
mod preflight;
mod support;
