//! Floor 1: devices, kernels, models, weights, KV memory, sampling and collectives.
//!
//! # Layout
//! - [`executor`]: the cut towards the actors: a batch in, hidden states or tokens out
//! - [`backend`]: what a device can do; its words: [`shape`], [`dtype`], [`tensor`], [`memory`]
//! - [`cpu`]: the device that every machine has; [`kv`]: its pools of KV blocks; [`cuda`]: NVIDIA's
//! - [`step`]: a batch that was checked, once for all devices
//! - [`sampling`]: a token out of a row of logits, as a pure function
//! - [`weights`]: files of tensors, of which a rank reads its share; [`quant`]: those that were
//!   quantized before we got them; [`layers`] know their rank
//! - [`lora`]: adapters: small additions to a model that requests choose by name
//! - [`models`]: one file per family; [`pipeline`]: which layers a stage has
//! - [`collective`]: how ranks of a stage add up what each computed, in rank order
//! - [`choose`]: which device a rank runs on
//! - [`load`](mod@load): a folder and a coordinate become a [`stage`] that is an executor

pub mod backend;
pub mod choose;
pub mod collective;
pub mod cpu;
pub mod cuda;
pub mod dtype;
pub mod error;
pub mod executor;
pub mod kv;
pub mod layers;
pub mod load;
pub mod lora;
pub mod memory;
pub mod models;
pub mod pipeline;
pub mod quant;
pub mod sampling;
pub mod shape;
pub mod stage;
pub mod step;
pub mod tensor;
pub mod weights;

pub use choose::{CudaRequest, DeviceChoice, DeviceRequest};
pub use load::{LoadRequest, ParallelSizes, StepLimits, load};
