//! Everything this crate tests through its public face, in one binary so that it links once.

#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod cpu;
mod cpu_attention;
mod loading;
mod parity;
mod ranks;
mod sampling;
