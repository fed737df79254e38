//! NVIDIA's libraries, found when the process runs: the binary that was built on a machine without
//! them is the one that runs on a machine with them.
//!
//! # Layout
//! - `library`: a shared library and a table of its functions, or a sentence about what is missing
//! - `api`: the functions of the driver library that are called, and its numbers
//! - `devices`: what devices there are
//! - `context`: [`Nvidia`], the [`super::driver::Driver`] of one device
//! - `staging`: page-locked memory that copies go through
//! - `blas`: dense products by cuBLASLt, where that is installed
//!
//! The tables are our own and not a bindings crate's because such a crate loads all of a library's
//! functions and panics on the first that an older driver lacks. These are some forty, each in
//! every driver since 525, and a missing one is an error that names it.

mod api;
mod blas;
mod context;
mod devices;
mod library;
mod staging;

pub use self::{
    context::Nvidia,
    devices::{Absent, devices},
};
