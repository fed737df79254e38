//! Everything this crate tests through its public face, in one binary so that it links once.

mod cpu;
mod cpu_attention;
#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod loading;
mod parity;
mod ranks;
mod sampling;
