//! The fast path: kernels written once over sixteen lanes, compiled for each instruction set and
//! chosen at run time.
//!
//! - [`vector`]: the lanes; [`avx512`], [`avx2`] and [`portable`] are what they can be
//! - [`product`], [`pairs`], [`integers`], [`coded`], [`attention`], [`latent`], [`rows`]: the
//!   kernels; [`avx512_bf16`], [`avx512_vnni`] and [`amx`] are what some instructions do faster
//! - [`attention_blocks`]: where attention finds keys and values; [`attention_pairs`]: what it does
//!   with pairs of brain floats
//! - [`grouped`]: many products of different weights, shared out together
//! - [`entry`]: compiles them for one instruction set; [`isa`]: which there are, and what each
//!   calls
//! - [`transpose`]: rows of brain floats to panels, in registers
//! - [`probe`]: loops that show the machine's limits
//! - [`pool`]: the threads that share their tasks; [`tasks`]: how attention is cut for them
//!
//! All `unsafe` code of the CPU device is here. An [`Isa`] exists only for what this machine has,
//! which is what makes the calls below sound.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod attention;
mod attention_blocks;
mod attention_pairs;
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
pub(crate) mod grouped;
mod integers;
pub(crate) mod isa;
pub(crate) mod latent;
mod pairs;
pub(crate) mod pool;
mod portable;
mod probe;
pub(crate) mod product;
mod rows;
pub(crate) mod tasks;
#[cfg(target_arch = "x86_64")]
mod transpose;
mod vector;

pub(crate) use isa::{Isa, has_fast_pairs};
