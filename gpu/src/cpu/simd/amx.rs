//! Products on the tile unit of Intel's Sapphire Rapids and later: `TDPBF16PS` for brain floats and
//! `TDPBSUD` for bytes. Needs `amx-tile`, `amx-bf16`, `amx-int8` and Linux's permission.
//!
//! A tile is up to 16 rows of 64 bytes. For both types a block is 16 words deep: a tile of `x` has
//! 16 words of up to 16 rows, a tile of weights 16 words of 16 outputs, and their product adds up
//! to 16 rows by 16 outputs. Weights lie in panels of 64 outputs, so a tile's rows are 256 bytes
//! apart.
//!
//! Stable Rust has no intrinsics for tiles, so the loops are in assembly. What they compute is
//! checked before they are first used ([`available`]): a machine whose tiles do not give the bits
//! that the other paths give does without them.

use std::{arch::asm, sync::OnceLock};

use super::product::{Product, TASK_ROWS, finish};
use crate::{
    backend::PreparedLinear,
    cpu::{
        integers::{Bits, GROUP, WORDS},
        packed::{Integers, PANEL},
        pairs::words,
    },
};

/// Rows, and outputs, of a tile.
const TILE: usize = 16;
/// Bytes of a block in a panel of weights.
const PANEL_BLOCK: usize = 16 * PANEL * 4;
/// Bytes between rows of a panel's words, and between rows of totals.
const PANEL_STRIDE: usize = PANEL * 4;

/// What a tile's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TileOf {
    /// Pairs of brain floats; totals are `f32`.
    Pairs,
    /// Four bytes a word, signed ones of `x` and unsigned ones of weights; totals are `i32`.
    Bytes,
}

/// Whether this process may use tiles, and they compute what they should.
pub(crate) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| has_instructions() && may_use_tiles() && computes_as_stated())
}

/// CPUID leaf 7: `amx-bf16`, `amx-tile` and `amx-int8`, and the AVX-512 that the rest needs.
fn has_instructions() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let (leaves, leaf) =
        (std::arch::x86_64::__cpuid(0).eax, std::arch::x86_64::__cpuid_count(7, 0));
    leaves >= 7 && leaf.edx & BITS == BITS && is_x86_feature_detected!("avx512f")
}

/// Asks Linux for the tiles' state (`ARCH_REQ_XCOMP_PERM`), which holds for threads to come too.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let answer: i64;
    // SAFETY: this system call changes nothing but what the process may use; an old kernel refuses.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") REQUEST,
            in("rsi") TILE_DATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// The shape of each tile, as `LDTILECFG` reads it.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Tiles 0 to 3 are totals, 4 and 5 have rows of `x`, 6 and 7 weights. With `second` rows of a
    /// second tile of `x` totals 2 and 3 are its; without, all four are the first's.
    fn new(first: usize, second: usize) -> Self {
        let last = if second == 0 { first } else { second };
        // At most 16.
        let rows = |rows: usize| rows as u8;
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shapes.row_bytes[..8].fill(64);
        let eight = [first, first, last, last, first, last, TILE, TILE].map(rows);
        shapes.rows[..8].copy_from_slice(&eight);
        shapes
    }
}

/// One task of a product by a panel of pairs in natural order.
///
/// # Safety
/// [`available`] has said yes; each task is run once.
pub(crate) unsafe fn pairs(job: &Product<'_>, weights: &[u32], task: usize) {
    let (number, first) = job.place(task);
    let rows = TASK_ROWS.min(job.rows - first);
    let words = words(job.weight.in_features());
    let x = &job.x[first * words..][..rows * words];
    let mut totals = [0; TASK_ROWS * PANEL];
    // SAFETY: as this function's.
    unsafe {
        panel(TileOf::Pairs, (x, words), weights, &mut totals);
    }
    let totals: &[f32] = bytemuck::cast_slice(&totals[..rows * PANEL]);
    finish(job, totals, number, first);
}

/// Words of a row of `width` bytes, with the block behind it.
pub(crate) const fn byte_words(width: usize) -> usize {
    (width.div_ceil(GROUP) + 1) * WORDS
}

/// One task of a product by integers of eight bits.
///
/// # Safety
/// [`available`] has said yes; each task is run once.
pub(crate) unsafe fn bytes(job: &Product<'_>, weights: &Integers, task: usize) {
    let (number, first) = job.place(task);
    let rows = TASK_ROWS.min(job.rows - first);
    let words = byte_words(job.weight.in_features());
    let x = &job.x[first * words..][..rows * words];
    let mut totals = [0; TASK_ROWS * PANEL];
    let panel_words = weights.panel(number, words / WORDS - 1);
    // SAFETY: as this function's.
    unsafe { panel(TileOf::Bytes, (x, words), panel_words, &mut totals) };
    let scales = weights.output_scales(number);
    for (x, totals) in x.chunks_exact(words).zip(totals.chunks_exact_mut(PANEL)) {
        let (scale, sum) = (f32::from_bits(x[words - WORDS]), x[words - WORDS + 1].cast_signed());
        let zero = sum.wrapping_mul(Bits::Eight.zero());
        for (total, output) in totals.iter_mut().zip(scales) {
            let dot = total.cast_signed().wrapping_sub(zero);
            *total = (dot as f32 * (scale * output)).to_bits();
        }
    }
    let totals: &[f32] = bytemuck::cast_slice(&totals[..rows * PANEL]);
    finish(job, totals, number, first);
}

/// Rows of `x`, each `words` words of which the first are `[blocks][16]`, at most [`TASK_ROWS`] of
/// them, by one panel (`[blocks][16][64]` words) into `totals`, `[rows][64]` of four bytes each.
///
/// # Safety
/// [`available`] has said yes.
pub(crate) unsafe fn panel(
    of: TileOf,
    (x, words): (&[u32], usize),
    weights: &[u32],
    totals: &mut [u32; TASK_ROWS * PANEL],
) {
    let blocks = weights.len() / (16 * PANEL);
    assert!(words >= blocks * 16 && blocks > 0 && x.len() <= TASK_ROWS * words);
    let rows = x.len() / words;
    for row in (0..rows).step_by(2 * TILE) {
        let first = TILE.min(rows - row);
        let second = TILE.min(rows - row - first);
        let shapes = Shapes::new(first, second);
        let job = Job {
            x: x[row * words..].as_ptr().cast(),
            x_stride: words * 4,
            weights: weights.as_ptr().cast(),
            totals: totals[row * PANEL..].as_mut_ptr().cast(),
            blocks,
        };
        // SAFETY: tiles exist by the caller's promise. Each reads what `job` says is there: of `x`
        // `first` and then `second` rows, of weights whole blocks; and writes as many rows.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly));
            match (of, second) {
                (TileOf::Pairs, 0) => pairs_one(&job),
                (TileOf::Pairs, _) => pairs_two(&job),
                (TileOf::Bytes, 0) => bytes_one(&job),
                (TileOf::Bytes, _) => bytes_two(&job),
            }
            // Else the tiles' 8 KiB are saved at every switch of threads.
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// Where one or two tiles of rows begin, and what they meet.
struct Job {
    x: *const u8,
    x_stride: usize,
    weights: *const u8,
    totals: *mut u8,
    blocks: usize,
}

/// Products from tiles that stay in registers; gives 0 and how many operations they were.
///
/// # Safety
/// [`available`] has said yes.
pub(crate) unsafe fn probe(of: TileOf, rounds: usize) -> (f32, usize) {
    let shapes = Shapes::new(TILE, TILE);
    // SAFETY: tiles exist by the caller's promise; nothing but registers is touched.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly));
        match of {
            TileOf::Pairs => probe_pairs(rounds),
            TileOf::Bytes => probe_bytes(rounds),
        }
        asm!("tilerelease", options(nostack, nomem));
    }
    let depth = match of {
        TileOf::Pairs => 32,
        TileOf::Bytes => 64,
    };
    (0.0, 4 * 2 * TILE * TILE * depth * rounds.max(1))
}

/// Makes the loop of [`probe`] for one instruction.
macro_rules! probe_loop {
    ($name:ident, $multiply:literal) => {
        unsafe fn $name(rounds: usize) {
            // SAFETY: as the caller's.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    rounds = inout(reg) rounds.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem)
                );
            }
        }
    };
}

probe_loop!(probe_pairs, "tdpbf16ps");
probe_loop!(probe_bytes, "tdpbsud");

/// Makes the two loops of one instruction: one tile of rows by the panel's four of outputs, and two
/// tiles of rows by two and then the other two.
macro_rules! loops {
    ($one:ident, $two:ident, $multiply:literal) => {
        unsafe fn $one(job: &Job) {
            // SAFETY: as the caller's.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{x} + {x_stride}*1]",
                    "tileloadd tmm6, [{w} + {stride}*1]",
                    "tileloadd tmm7, [{w} + {stride}*1 + 64]",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm6, [{w} + {stride}*1 + 128]",
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm7, [{w} + {stride}*1 + 192]",
                    concat!($multiply, " tmm2, tmm4, tmm6"),
                    concat!($multiply, " tmm3, tmm4, tmm7"),
                    "add {x}, 64",
                    "add {w}, {panel_block}",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilestored [{totals} + {stride}*1], tmm0",
                    "tilestored [{totals} + {stride}*1 + 64], tmm1",
                    "tilestored [{totals} + {stride}*1 + 128], tmm2",
                    "tilestored [{totals} + {stride}*1 + 192], tmm3",
                    x = inout(reg) job.x => _,
                    w = inout(reg) job.weights => _,
                    blocks = inout(reg) job.blocks => _,
                    x_stride = in(reg) job.x_stride,
                    stride = in(reg) PANEL_STRIDE,
                    totals = in(reg) job.totals,
                    panel_block = const PANEL_BLOCK,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }

        unsafe fn $two(job: &Job) {
            for half in [0, 128] {
                // SAFETY: as the caller's; the second tile of rows begins 16 rows on.
                unsafe {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "2:",
                        "tileloadd tmm4, [{x} + {x_stride}*1]",
                        "tileloadd tmm6, [{w} + {stride}*1]",
                        "tileloadd tmm7, [{w} + {stride}*1 + 64]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm5, [{second} + {x_stride}*1]",
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "add {x}, 64",
                        "add {second}, 64",
                        "add {w}, {panel_block}",
                        "dec {blocks}",
                        "jnz 2b",
                        "tilestored [{totals} + {stride}*1], tmm0",
                        "tilestored [{totals} + {stride}*1 + 64], tmm1",
                        "tilestored [{below} + {stride}*1], tmm2",
                        "tilestored [{below} + {stride}*1 + 64], tmm3",
                        x = inout(reg) job.x => _,
                        second = inout(reg) job.x.add(TILE * job.x_stride) => _,
                        w = inout(reg) job.weights.add(half) => _,
                        blocks = inout(reg) job.blocks => _,
                        x_stride = in(reg) job.x_stride,
                        stride = in(reg) PANEL_STRIDE,
                        totals = in(reg) job.totals.add(half),
                        below = in(reg) job.totals.add(half + TILE * PANEL_STRIDE),
                        panel_block = const PANEL_BLOCK,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack)
                    );
                }
            }
        }
    };
}

loops!(pairs_one, pairs_two, "tdpbf16ps");
loops!(bytes_one, bytes_two, "tdpbsud");

/// Multiplies some numbers by tiles and in plain loops.
fn computes_as_stated() -> bool {
    let same = [1, TILE, TILE + 3, TASK_ROWS]
        .into_iter()
        .all(|rows| [TileOf::Pairs, TileOf::Bytes].into_iter().all(|of| is_as_stated(of, rows)));
    if !same {
        tracing::warn!("this machine's AMX tiles do not compute as they should: not used");
    }
    same
}

fn is_as_stated(of: TileOf, rows: usize) -> bool {
    const BLOCKS: usize = 3;
    let mut state = 0x2545_f491_u32;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        match of {
            TileOf::Bytes => state,
            // Between 1 and 8 with either sign, so that sums cancel and round.
            TileOf::Pairs => state & 0x81ff_81ff | 0x3f80_3f80,
        }
    };
    let x: Vec<u32> = (0..rows * BLOCKS * 16).map(|_| word()).collect();
    let weights: Vec<u32> = (0..BLOCKS * 16 * PANEL).map(|_| word()).collect();
    let mut totals = Box::new([0; TASK_ROWS * PANEL]);
    // SAFETY: called once the instructions are there and allowed.
    unsafe { panel(of, (&x, BLOCKS * 16), &weights, &mut totals) };
    (0..rows).all(|row| {
        let x = &x[row * BLOCKS * 16..][..BLOCKS * 16];
        (0..PANEL).all(|output| {
            let weight = |word: usize| weights[word * PANEL + output];
            totals[row * PANEL + output] == stated(of, x, weight)
        })
    })
}

/// One output in plain loops, as bits.
fn stated(of: TileOf, x: &[u32], weight: impl Fn(usize) -> u32) -> u32 {
    let mut total = 0.0f32;
    let mut sum = 0i32;
    for (block, x) in x.chunks(16).enumerate() {
        let mut chains = [0.0f32; 2];
        for (at, x) in x.iter().enumerate() {
            let weight = weight(block * 16 + at);
            for (chain, shift) in chains.iter_mut().zip([16, 0]) {
                let float = |word: u32| f32::from_bits(word << shift & 0xffff_0000);
                *chain = float(*x).mul_add(float(weight), *chain);
            }
            for (a, b) in x.to_le_bytes().into_iter().zip(weight.to_le_bytes()) {
                sum += i32::from(a.cast_signed()) * i32::from(b);
            }
        }
        total += chains[0] + chains[1];
    }
    match of {
        TileOf::Pairs => total.to_bits(),
        TileOf::Bytes => sum.cast_unsigned(),
    }
}
