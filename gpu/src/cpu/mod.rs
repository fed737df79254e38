//! The CPU device: what every machine can serve with, and the truth that other devices are held to.
//!
//! # Layout
//! - [`device`]: `impl Backend`; [`ops`]: what its operations do row by row; `path`: which code
//!   does it on this machine
//! - `experts`, `latent`, `lora`: a layer of experts, latent attention and what adapters add,
//!   several operations each
//! - [`packed`], `panels`, `pairs`, `integers`, `coded`: weights as kernels want them; [`buffer`],
//!   [`step`]: activations, step metadata; `rounding`: activations of quantized checkpoints
//! - [`probe`]: what this machine can do at most
//! - `reference`: reductions in plain loops; `simd`: the same, fast; `math`: scalar functions
//!
//! # Arithmetic
//! Activations are `f32` between operations whatever the weights are stored in. Products with
//! float32, float16 and quantized weights widen each weight and take activations as they are (but
//! for checkpoints that want those rounded, unless run in float32). Products with bfloat16 weights
//! round their input to bfloat16 and sum in `f32`, as the instructions for that type do; all else
//! of a bfloat16 model, its residual stream above all, keeps more precision than where every
//! activation is stored in that type. Keys and values are rounded to the KV's type when written;
//! where that is bfloat16, queries and the weights of values are rounded to it too. The
//! floating-point environment is Rust's default: round to nearest, subnormals kept.
//!
//! # Reduction orders
//! Each is a function of shape constants alone, so a row's bits never depend on batch, chunk,
//! thread count or path; `FMA` is a multiply-add rounded once.
//! - **Product** of K inputs: chains of 256 inputs; a chain starts at 0 and takes its inputs in
//!   order by FMA; chains are added in order; then the bias; then what was in the output.
//! - **Product with bfloat16 weights**: blocks of 32 inputs, two chains in each, `pairs`; then the
//!   same.
//! - **Product with integers**: exact within a group of inputs, groups by FMA in order, `integers`.
//! - **Product with codes** of a quantized checkpoint: each weight becomes an `f32`, `coded`; then
//!   as the first.
//! - **RMS norm**: squares go by FMA into 16 lanes, element `i` into lane `i % 16`; lanes are added
//!   as a tree (`i` takes `i + 8`, then `+ 4`, `+ 2`, `+ 1`); `x * (1 / sqrt(mean + epsilon)) * w`.
//! - **Layer norm**: the row's sum over 16 lanes and the tree, which gives the mean; what is left
//!   without it is squared and summed as for RMS norm; `x * (1 / sqrt(variance + epsilon)) * w +
//!   b`.
//! - **Attention**: a score is a chain of FMAs over the head's elements, then times the scale, then
//!   capped if the model says so. Positions form chunks of 64 from position 0. Within a chunk: the
//!   greatest visible score `m`, weights `exp(score - m)`, their sum over 16 lanes by position and
//!   the tree, values by FMA in order of position. Chunks are merged in order within spans of 512
//!   positions from position 0, then spans in order: with `m' = max(m_old, m)`, sums and values are
//!   `old * exp(m_old - m') + new * exp(m - m')`; the end is `values * (1 / sum)`. Keys and values
//!   in eight bits enter as integers: a score is multiplied by the key's scale before the spec's,
//!   and a weight by the value's scale once it is in the sum.
//!   Keys and values in bfloat16 are multiplied in the order of products with such weights:
//!   elements of a head, and positions of a chunk, in blocks of 32 with two chains each. Weights
//!   are rounded after they are in the sum.
//! - **Latent attention**: products of each head as above; then the same as attention without
//!   spans, with whole rows for keys and their compressed parts for values.
//! - **Experts**: a router's scores are summed in the order of experts; products as above; outputs
//!   are added by FMA with their weights, in the order of experts.
//! - **Adapters**: both factors as products with `f32` weights; what comes of them is added to the
//!   finished product.
//! - `exp` is `math::exp` everywhere: no C library, within 2 units in the last place.
//!
//! Rotation tables come from the C library's sine and cosine in `f64`, once, at load.

pub(crate) mod aligned;
pub mod buffer;
pub(crate) mod coded;
pub mod device;
pub(crate) mod experts;
pub(crate) mod integers;
pub(crate) mod latent;
pub(crate) mod lora;
pub(crate) mod math;
pub mod ops;
pub mod packed;
pub(crate) mod pairs;
pub(crate) mod panels;
mod path;
pub mod probe;
pub(crate) mod reference;
pub(crate) mod rounding;
pub(crate) mod simd;

pub use device::CpuDevice;
pub use path::{KernelPath, arithmetic};

/// How the CPU device is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that share each operation, the device's own thread included; at least 1. When
    /// several devices share a machine, its cores divided by the devices is right.
    pub threads: usize,
    /// Forces a path; `None` takes the best that this machine has.
    pub path: Option<KernelPath>,
}
