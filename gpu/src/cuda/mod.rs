//! NVIDIA devices.
//!
//! # How a step runs
//! [`step`] turns a batch into one buffer of numbers on the device; each operation of
//! [`backend`] checks its sizes and becomes one launch, which [`launch`](self) describes as a plain
//! value; [`kernels`] finds the kernel and the [`driver`] enqueues it. Nothing is read back before
//! the step's logits are. Rows go up a [`ladder`] of sizes, so that steps of one size are alike.
//!
//! # Layout
//! - [`driver`]: the cut towards the driver library; [`nvidia`]: the real one; [`fake`]: a
//!   recording one for tests
//! - [`memory`], [`buffer`], [`weights`], [`kv`], [`step`]: what lies on the device
//! - [`device`]: a device; [`backend`]: its operations; `attend`, `experts`, `products`,
//!   `transfer`: those that are several launches
//! - [`graph`]: which steps are captured
//! - `launch`: every launch's blocks and arguments; [`kernels`]: their sources and modules;
//!   [`images`]: where cubins come from
//! - [`sources`]: the kernels as text; [`compile`]: what makes machine code of them
//! - [`options`]: what a device is opened with; [`plan`]: how its memory is shared out; [`claim`]:
//!   whose it is
//!
//! `unsafe` is in [`nvidia`] and [`compile`] alone. What the kernels compute is stated in
//! `gpu/kernels`.

mod attend;
pub mod backend;
pub mod buffer;
pub mod claim;
pub mod compile;
pub mod device;
pub mod driver;
mod experts;
pub mod fake;
pub mod graph;
pub mod images;
pub mod kernels;
pub mod kv;
pub mod ladder;
mod launch;
pub mod memory;
pub mod nvidia;
pub mod options;
pub mod plan;
mod products;
pub mod sources;
pub mod step;
mod transfer;
pub mod weights;

pub use self::{device::CudaDevice, options::CudaOptions};
