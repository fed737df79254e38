//! The fast path: kernels written once over sixteen lanes, compiled for each instruction set and
//! chosen at run time.
//!
//! - [`vector`]: the lanes; [`avx512`], [`avx2`] and [`portable`] are what they can be
//! - [`product`], [`attention`], [`rows`]: the kernels
//! - [`entry`]: compiles them for one instruction set
//! - [`pool`]: the threads that share their tasks
//!
//! All `unsafe` code of the CPU device is here. An [`Isa`] exists only for what this machine has,
//! which is what makes the calls below sound.

pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod entry;
pub(crate) mod pool;
mod portable;
pub(crate) mod product;
mod rows;
mod vector;

use crate::cpu::KernelPath;

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Isa(KernelPath);

impl Isa {
    /// The path's instruction set, if this machine has it. The reference has none.
    pub(crate) fn of(path: KernelPath) -> Option<Self> {
        let there = match path {
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            KernelPath::Avx2 | KernelPath::Avx512 => false,
            KernelPath::Portable => true,
            KernelPath::Reference => false,
        };
        there.then_some(Self(path))
    }
}

/// Runs tasks on the pool, or here if waking a thread would take longer than the work.
fn share(
    pool: &mut pool::Pool,
    (tasks, operations): (usize, usize),
    call: &(dyn Fn(usize) + Sync),
) {
    if operations < SMALL {
        (0..tasks).for_each(call);
    } else {
        pool.run(tasks, call);
    }
}

/// Multiply-adds that one core does in some four microseconds.
const SMALL: usize = 128 * 1024;

/// Calls one kernel of the instruction set at hand.
macro_rules! dispatch {
    ($isa:expr, $kernel:ident($($argument:expr),*)) => {
        // SAFETY: `Isa::of` has found the features on this machine.
        unsafe {
            match $isa.0 {
                #[cfg(target_arch = "x86_64")]
                KernelPath::Avx2 => avx2::$kernel($($argument),*),
                #[cfg(target_arch = "x86_64")]
                KernelPath::Avx512 => avx512::$kernel($($argument),*),
                _ => portable::$kernel($($argument),*),
            }
        }
    };
}

impl Isa {
    /// All of a product's tasks.
    pub(crate) fn product(self, pool: &mut pool::Pool, job: &product::Product<'_>) {
        share(pool, (job.tasks(), job.operations()), &|task| dispatch!(self, product(job, task)));
    }

    /// All of an attention's tasks.
    pub(crate) fn attention(self, pool: &mut pool::Pool, job: &attention::Attention<'_>) {
        let tasks = (job.tasks.len(), job.operations());
        share(pool, tasks, &|task| dispatch!(self, attention(job, task)));
    }

    /// The sum of squares in the stated order.
    pub(crate) fn sum_of_squares(self, x: &[f32]) -> f32 {
        dispatch!(self, sum_of_squares(x))
    }

    /// `out = silu(gate) * up`.
    pub(crate) fn silu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        dispatch!(self, silu_mul(gate, up, out))
    }
}
