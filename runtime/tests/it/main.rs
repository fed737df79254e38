//! Everything this crate tests through its public face, in one binary so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[allow(dead_code)]
#[path = "../../../tests/support/etcd.rs"]
mod etcd_process;
mod fuzz;
#[allow(dead_code)]
#[path = "../../../tests/support/fuzz.rs"]
mod fuzz_inputs;
#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod grammar;
mod link;
mod model;
mod registry;
mod telemetry;
mod wire;
