//! CUDA kernels without a GPU: their sources compiled as C++ by the shim (`gpu/kernels/shim`) and
//! run on the CPU, compared with what the CPU device says; and compiled by NVRTC for every
//! architecture that a release has, with their registers and spills. Where there is a GPU, the same
//! tests judge what it makes of the same launches.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod attention;
mod device;
mod encoders;
mod experts;
#[allow(dead_code)]
#[path = "../../../tests/support/golden.rs"]
mod golden;
mod images;
mod kv;
mod latent;
mod models;
mod products;
#[allow(dead_code)]
#[path = "../it/ranks.rs"]
mod ranks;
mod rounding;
mod rows;
mod sampling;
mod shim;
#[allow(dead_code)]
#[path = "../../../tests/support/skip.rs"]
mod skip;
mod steps;
mod values;
