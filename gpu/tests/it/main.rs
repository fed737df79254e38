//! Everything this crate tests through its public face, in one binary so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod cpu;
mod cpu_attention;
mod cpu_layers;
mod cuda_launches;
mod embeddings;
#[allow(dead_code)]
#[path = "../../../tests/support/fuzz.rs"]
mod fuzz_inputs;
#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod hostile;
mod loading;
mod lora;
mod parity;
mod quantized;
mod ranks;
mod sampling;
#[path = "../../../tests/support/skip.rs"]
mod skip;
