//! The fast path: kernels written once over sixteen lanes, compiled for each instruction set and
//! chosen at run time.
//!
//! - [`vector`]: the lanes; [`avx512`], [`avx2`] and [`portable`] are what they can be
//! - [`product`], [`pairs`], [`integers`], [`coded`], [`attention`], [`rows`]: the kernels;
//!   [`avx512_bf16`], [`avx512_vnni`] and [`amx`] are what some instructions do faster
//! - [`entry`]: compiles them for one instruction set; [`isa`]: which there are, and what each
//!   calls
//! - [`pool`]: the threads that share their tasks
//!
//! All `unsafe` code of the CPU device is here. An [`Isa`] exists only for what this machine has,
//! which is what makes the calls below sound.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod coded;
mod entry;
mod integers;
pub(crate) mod isa;
mod pairs;
pub(crate) mod pool;
mod portable;
pub(crate) mod product;
mod rows;
mod vector;

pub(crate) use isa::{Isa, has_fast_pairs};
