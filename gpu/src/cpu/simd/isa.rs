//! The instruction sets that this machine has, and which kernel of each does what.

#[cfg(target_arch = "x86_64")]
use crate::cpu::integers::Bits;

#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, avx512_bf16, avx512_vnni, probe, transpose};
use super::{attention, integers, latent, pool, portable, product, tasks};
use crate::{
    backend::PreparedLinear,
    cpu::{
        KernelPath,
        packed::{CpuLinear, Elements, PANEL},
        pairs::{BLOCK, PAIRS, PairOrder, pack_block, words},
        probe::Multiply,
    },
    dtype::Dtype,
    quant::InputRounding,
};

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Isa(KernelPath);

impl Isa {
    /// The path's instruction set, if this machine has it. The reference has none.
    pub(crate) fn of(path: KernelPath) -> Option<Self> {
        let there = match path {
            KernelPath::Portable => true,
            KernelPath::Reference => false,
            _ => has(path),
        };
        there.then_some(Self(path))
    }
}

#[cfg(target_arch = "x86_64")]
fn has(path: KernelPath) -> bool {
    let avx512 = || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
    match path {
        KernelPath::Avx2 => {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        }
        KernelPath::Avx512 => avx512(),
        KernelPath::Avx512Vnni => vnni(),
        KernelPath::Avx512Bf16 => vnni() && is_x86_feature_detected!("avx512bf16"),
        KernelPath::Amx => vnni() && amx::available(),
        KernelPath::Portable | KernelPath::Reference => true,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(_path: KernelPath) -> bool {
    false
}

/// Whether products of pairs are faster than multiply-adds: on AMD's processors they are, twice; on
/// Intel's, where tiles are for that, they have half the rate.
pub(crate) fn has_fast_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
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
                KernelPath::Avx512
                | KernelPath::Avx512Vnni
                | KernelPath::Avx512Bf16
                | KernelPath::Amx => avx512::$kernel($($argument),*),
                _ => portable::$kernel($($argument),*),
            }
        }
    };
}

impl Isa {
    /// The order in which this path's kernels read pairs of brain floats.
    pub(crate) fn pair_order(self) -> PairOrder {
        match self.0 {
            KernelPath::Avx512Bf16 => PairOrder::Chained,
            _ => PairOrder::Natural,
        }
    }

    /// Whether [`Self::pack_pairs`] takes little longer than reading what it packs.
    pub(crate) fn packs_fast(self) -> bool {
        !matches!(self.0, KernelPath::Avx2 | KernelPath::Portable | KernelPath::Reference)
    }

    /// Packs up to 64 rows of equally many brain floats into a panel of pairs in `order`; lanes
    /// beyond the last row become zeros.
    pub(crate) fn pack_pairs(self, order: PairOrder, rows: &[&[u8]], out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if self.packs_fast() {
            // SAFETY: `Isa::of` has found the features on this machine.
            return unsafe { transpose::pack(order, rows, out) };
        }
        out.fill(0);
        for (block, out) in out.chunks_exact_mut(PAIRS * PANEL).enumerate() {
            for (lane, row) in rows.iter().enumerate() {
                pack_block(order, (row, Dtype::Bf16), block, lane, out);
            }
        }
    }

    /// Words that one row of `x` takes as the kernel for `weight` reads it.
    pub(crate) fn row_words(self, weight: &CpuLinear) -> usize {
        let width = weight.in_features();
        match (&weight.elements, self.0) {
            (Elements::Bf16(..), KernelPath::Avx512Bf16 | KernelPath::Amx) => words(width),
            (Elements::Bf16(..), _) => width.next_multiple_of(BLOCK),
            #[cfg(target_arch = "x86_64")]
            (Elements::Integers(integers), KernelPath::Amx) if integers.bits == Bits::Eight => {
                amx::byte_words(width)
            }
            (Elements::Integers(_), _) => integers::row_words(width),
            (Elements::F16(_) | Elements::F32(_) | Elements::Coded(_), _) => width,
        }
    }

    /// Rows of a tile of the kernel for `weight`.
    pub(crate) fn tile_rows(self, weight: &CpuLinear) -> usize {
        match (&weight.elements, self.0) {
            #[cfg(target_arch = "x86_64")]
            (Elements::Bf16(..), KernelPath::Avx512Bf16) => avx512_bf16::TILE_ROWS,
            _ => product::TILE_ROWS,
        }
    }

    /// Lays a tile of rows of `x` out as the kernel for `weight` reads it. `peaks` are what scales
    /// of these rows follow from, or nothing if the rows decide.
    pub(crate) fn lay_out(self, weight: &CpuLinear, x: &[f32], peaks: &[f32], out: &mut [u32]) {
        let width = weight.in_features();
        match (&weight.elements, self.0) {
            // SAFETY: `Isa::of` has found the features on this machine.
            #[cfg(target_arch = "x86_64")]
            (Elements::Bf16(..), KernelPath::Avx512Bf16) => unsafe {
                avx512_bf16::spread_pairs(x, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Elements::Bf16(..), KernelPath::Amx) => unsafe {
                // SAFETY: as above.
                avx512::narrow_rows(x, width, out);
            },
            (Elements::Bf16(..), _) => dispatch!(self, spread_pairs(x, width, out)),
            #[cfg(target_arch = "x86_64")]
            (Elements::Integers(integers), KernelPath::Amx) if integers.bits == Bits::Eight => {
                // SAFETY: as above.
                unsafe { avx512::quantize_rows(x, peaks, width, out) }
            }
            (Elements::Integers(_), _) => dispatch!(self, spread_integers(x, peaks, width, out)),
            (Elements::Coded(_), _) if weight.rounding != InputRounding::Exact => {
                product::interleave(&weight.rounded(x, peaks), width, out);
            }
            (Elements::F16(_) | Elements::F32(_) | Elements::Coded(_), _) => {
                product::interleave(x, width, out)
            }
        }
    }

    /// All of a product's tasks.
    pub(crate) fn product(self, pool: &mut pool::Pool, job: &product::Product<'_>) {
        share(pool, (job.tasks(), job.operations()), &|task| self.product_task(job, task));
    }

    /// All tasks of several products, of whatever weights, shared out together.
    pub(crate) fn products(self, pool: &mut pool::Pool, jobs: &[product::Product<'_>]) {
        let mut ends = Vec::with_capacity(jobs.len());
        let mut total = 0;
        for job in jobs {
            total += job.tasks();
            ends.push(total);
        }
        let operations = jobs.iter().map(product::Product::operations).sum();
        share(pool, (total, operations), &|task| {
            let at = ends.partition_point(|end| *end <= task);
            let first = if at == 0 { 0 } else { ends[at - 1] };
            self.product_task(&jobs[at], task - first);
        });
    }

    fn product_task(self, job: &product::Product<'_>, task: usize) {
        match (&job.weight.elements, self.0) {
            (Elements::Bf16(panels), _) => {
                let (panel, _) = job.place(task);
                panels.with(self, panel, |weights| self.pairs_task(job, weights, task));
            }
            // SAFETY: `Isa::of` has found the features on this machine.
            #[cfg(target_arch = "x86_64")]
            (Elements::Integers(own), KernelPath::Amx) if own.bits == Bits::Eight => unsafe {
                amx::bytes(job, own, task);
            },
            #[cfg(target_arch = "x86_64")]
            (
                Elements::Integers(weights),
                KernelPath::Avx512Vnni | KernelPath::Avx512Bf16 | KernelPath::Amx,
            ) => {
                // SAFETY: as above.
                unsafe { avx512_vnni::product(job, weights, task) }
            }
            _ => dispatch!(self, product(job, task)),
        }
    }

    /// One task of a product by a panel of pairs in this path's order.
    fn pairs_task(self, job: &product::Product<'_>, weights: &[u32], task: usize) {
        match self.0 {
            // SAFETY: `Isa::of` has found the features on this machine, and weights that are
            // prepared for it are chained.
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx512Bf16 => unsafe { avx512_bf16::pairs(job, weights, task) },
            // SAFETY: as above, in natural order.
            #[cfg(target_arch = "x86_64")]
            KernelPath::Amx => unsafe { amx::pairs(job, weights, task) },
            _ => dispatch!(self, pairs(job, weights, task)),
        }
    }

    /// All of an attention's tasks, then what their parts come to.
    pub(crate) fn attention(
        self,
        pool: &mut pool::Pool,
        job: &attention::Attention<'_>,
        merges: &[tasks::Merge],
    ) {
        let size = (job.tasks.len(), job.operations());
        share(pool, size, &|task| self.attention_task(job, task));
        share(pool, (merges.len(), job.operations()), &|merge| {
            // SAFETY: parts of merges are disjoint, and no task runs any more.
            unsafe { merges[merge].run(job) }
        });
    }

    fn attention_task(self, job: &attention::Attention<'_>, task: usize) {
        match self.0 {
            // SAFETY: `Isa::of` has found the features on this machine.
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx512Bf16 => unsafe { avx512_bf16::attention(job, task) },
            _ => dispatch!(self, attention(job, task)),
        }
    }

    /// The sum of squares in the stated order.
    pub(crate) fn sum_of_squares(self, x: &[f32]) -> f32 {
        dispatch!(self, sum_of_squares(x))
    }

    /// All of a latent attention's tasks.
    pub(crate) fn latent(self, pool: &mut pool::Pool, job: &latent::Latent<'_>) {
        let tasks = (job.tasks.len(), job.operations());
        share(pool, tasks, &|task| dispatch!(self, latent(job, task)));
    }

    /// `out = gelu(gate) * up`.
    pub(crate) fn gelu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        dispatch!(self, gelu_mul(gate, up, out))
    }

    /// Each value its exact Gaussian error linear unit.
    pub(crate) fn gelu(self, values: &mut [f32]) {
        dispatch!(self, gelu(values))
    }

    /// `out = silu(gate) * up`.
    pub(crate) fn silu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        dispatch!(self, silu_mul(gate, up, out))
    }

    /// The sum of some memory, to see how fast it is read.
    pub(crate) fn probe_read(self, memory: &[f32]) -> f32 {
        dispatch!(self, probe_read(memory))
    }

    /// A loop of nothing but products; gives some number and how many operations it took.
    pub(crate) fn probe_multiply(self, of: Multiply, rounds: usize) -> (f32, usize) {
        match (of, self.0) {
            // SAFETY: `Isa::of` has found the features on this machine.
            #[cfg(target_arch = "x86_64")]
            (Multiply::Bf16, KernelPath::Avx512Bf16) => unsafe { probe::pairs(rounds) },
            #[cfg(target_arch = "x86_64")]
            (Multiply::Bf16, KernelPath::Amx) => unsafe {
                // SAFETY: as above.
                amx::probe(amx::TileOf::Pairs, rounds)
            },
            #[cfg(target_arch = "x86_64")]
            (Multiply::Int8, KernelPath::Amx) => unsafe {
                // SAFETY: as above.
                amx::probe(amx::TileOf::Bytes, rounds)
            },
            #[cfg(target_arch = "x86_64")]
            (Multiply::Int8, KernelPath::Avx512Vnni | KernelPath::Avx512Bf16) => unsafe {
                // SAFETY: as above.
                probe::bytes(rounds)
            },
            (Multiply::F32, _) => dispatch!(self, probe_multiply_add(rounds)),
            _ => (0.0, 0),
        }
    }
}
