//! Runs kernels on the CPU: builds a library of a kernel file and the shim when a test first wants
//! it, keeps memory that stands for the device's, and launches.
//!
//! Each launch happens twice, with threads and blocks taking turns in opposite orders, and must
//! leave the same memory both times: a kernel that lacks a barrier does not. Memory has guards on
//! both sides, which must be as they were. Then it happens on a GPU, if there is one ([`device`]).

use std::{
    collections::BTreeMap,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

use crate::device;

/// Memory of the device that the shim is.
#[derive(Default)]
pub(crate) struct Memory {
    blocks: Vec<Block>,
}

/// What lies at an address, with guards around it.
struct Block {
    bytes: Vec<u8>,
    /// Where the content begins, behind the first guard.
    first: usize,
    len: usize,
}

/// An argument of a kernel.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    /// An address, or a number of 64 bits.
    Wide(u64),
    /// A number of 32 bits.
    Word(u32),
    /// A float.
    Float(f32),
    /// A struct by value.
    Struct(Fields),
}

/// The bytes of a struct, laid out as C does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) file: &'a str,
    pub(crate) kernel: &'a str,
    pub(crate) grid: [usize; 3],
    pub(crate) threads: u32,
    pub(crate) shared: usize,
}

impl Memory {
    /// Puts bytes somewhere and gives their address, a multiple of 256.
    pub(crate) fn put(&mut self, content: &[u8]) -> u64 {
        let mut bytes = vec![GUARD; content.len() + 3 * ALIGN];
        let start = bytes.as_ptr().addr();
        let first = (start + ALIGN).next_multiple_of(ALIGN) - start;
        bytes[first..first + content.len()].copy_from_slice(content);
        self.blocks.push(Block { bytes, first, len: content.len() });
        (start + first) as u64
    }

    /// Room for so many bytes, which hold what is no number in any type.
    pub(crate) fn room(&mut self, bytes: usize) -> u64 {
        self.put(&vec![0xff; bytes])
    }

    /// What lies at an address that was given.
    pub(crate) fn at(&self, address: u64) -> &[u8] {
        let found = self.blocks.iter().find(|block| block.address() == address);
        found.expect("an address that was given").content()
    }

    /// Launches; see the module for what is checked.
    pub(crate) fn launch(&mut self, launch: Launch<'_>, args: &[Arg]) {
        let before: Vec<Vec<u8>> = self.blocks.iter().map(|b| b.content().to_vec()).collect();
        run(launch, args, true);
        let backwards: Vec<Vec<u8>> = self.blocks.iter().map(|b| b.content().to_vec()).collect();
        for (block, content) in self.blocks.iter_mut().zip(&before) {
            let first = block.first;
            block.bytes[first..first + content.len()].copy_from_slice(content);
        }
        run(launch, args, false);
        for (number, (block, other)) in self.blocks.iter().zip(&backwards).enumerate() {
            let kernel = launch.kernel;
            assert!(block.is_whole(), "{kernel} wrote beyond buffer {number}");
            assert!(
                block.content() == &other[..],
                "{kernel} gives buffer {number} other bytes when threads run in another order"
            );
        }
        let addresses = self.blocks.iter().map(Block::address);
        let mut blocks: Vec<(u64, Vec<u8>)> = addresses.zip(before).collect();
        if device::run(launch, args, &mut blocks) {
            for (block, (_, content)) in self.blocks.iter_mut().zip(&blocks) {
                let first = block.first;
                block.bytes[first..first + content.len()].copy_from_slice(content);
            }
        }
    }
}

impl Block {
    fn address(&self) -> u64 {
        (self.bytes.as_ptr().addr() + self.first) as u64
    }

    fn content(&self) -> &[u8] {
        &self.bytes[self.first..self.first + self.len]
    }

    fn is_whole(&self) -> bool {
        let guards = self.bytes[..self.first].iter().chain(&self.bytes[self.first + self.len..]);
        guards.copied().all(|byte| byte == GUARD)
    }
}

impl Fields {
    /// An address or another number of 64 bits.
    pub(crate) fn wide(mut self, value: u64) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Numbers of 32 bits.
    pub(crate) fn words(mut self, values: &[u32]) -> Self {
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// A float.
    pub(crate) fn float(mut self, value: f32) -> Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// The struct as it lies in an array.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A struct within, which begins at a multiple of eight and fills a whole number of them.
    pub(crate) fn of(mut self, inner: &Self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend_from_slice(&inner.bytes);
        self
    }
}

/// The kernels' folder.
fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Whether there is a C++ compiler; says so if not.
pub(crate) fn is_missing() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| Command::new(compiler()).arg("--version").output().is_ok());
    if !found {
        crate::skip::skipped("no C++ compiler (CXX names one, else `c++` is taken)");
    }
    !found
}

#[expect(clippy::disallowed_methods, reason = "CXX names the compiler, as everywhere")]
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

fn run(launch: Launch<'_>, args: &[Arg], backwards: bool) {
    // Each argument in words of its own, so that it is aligned.
    let words: Vec<Vec<u64>> = args.iter().map(Arg::words).collect();
    if let Err(why) = run_words(launch, &words, backwards) {
        panic!("{}: {why}", launch.kernel);
    }
}

/// Runs a kernel once, over whatever memory its arguments point to.
pub(crate) fn run_words(
    launch: Launch<'_>,
    words: &[Vec<u64>],
    backwards: bool,
) -> Result<(), String> {
    let mut pointers: Vec<*const c_void> =
        words.iter().map(|words| words.as_ptr().cast()).collect();
    let name = CString::new(launch.kernel).unwrap();
    let grid = launch.grid.map(|size| size as c_uint);
    let mut why = [0u8; 400];
    let entry = entry_of(launch.file);
    // SAFETY: `entry` is shim_launch of shim/cuda.hpp with this signature, in a library that is
    // never closed. It reads the name, three sizes and as many arguments as it is told, each of
    // which lives for the call and is as long as the kernel's parameter (the kernel checks their
    // number, the test that calls gives their types), and writes at most 400 bytes to `why`. What
    // the kernel itself writes are the blocks whose addresses are among the arguments; no
    // reference to them is alive.
    let code = unsafe {
        entry(
            name.as_ptr(),
            grid.as_ptr(),
            launch.threads,
            launch.shared as c_uint,
            pointers.as_mut_ptr(),
            pointers.len(),
            c_int::from(backwards),
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    let end = why.iter().position(|byte| *byte == 0).unwrap_or(why.len());
    match code {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&why[..end]).into_owned()),
    }
}

impl Arg {
    /// As it lies in memory, in whole words.
    pub(crate) fn words(&self) -> Vec<u64> {
        match self {
            Self::Wide(value) => vec![*value],
            Self::Word(value) => vec![u64::from(*value)],
            Self::Float(value) => vec![u64::from(value.to_bits())],
            Self::Struct(fields) => {
                let mut bytes = fields.bytes.clone();
                bytes.resize(bytes.len().next_multiple_of(8), 0);
                bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
            }
        }
    }
}

type Entry = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    c_uint,
    *mut *const c_void,
    usize,
    c_int,
    *mut c_char,
    usize,
) -> c_int;

/// The library of a kernel file, built if it has not been.
fn entry_of(file: &str) -> Entry {
    static OPEN: Mutex<BTreeMap<String, Entry>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(entry) = open.get(file) {
        return *entry;
    }
    let library = build(file);
    // SAFETY: the library is of our own sources; its initializers enter kernels into a table.
    let library = unsafe { libloading::Library::new(&library) }.unwrap();
    // SAFETY: the function has this type in shim/cuda.hpp.
    let entry = *unsafe { library.get::<Entry>(b"shim_launch\0") }.unwrap();
    // Never closed: the function is called for as long as the process lives.
    std::mem::forget(library);
    open.insert(file.to_owned(), entry);
    entry
}

/// Compiles a kernel file with the shim. What was built stays until a source changes.
fn build(file: &str) -> PathBuf {
    let (folder, own) = (kernels(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels"));
    let in_folder = folder.join(format!("{file}.cu"));
    let source = if in_folder.exists() { in_folder } else { own.join(format!("{file}.cu")) };
    let mut hash = blake3::Hasher::new();
    hash.update(&std::fs::read(&source).unwrap());
    for directory in [folder.clone(), folder.join("shim")] {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let is_source = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".cuh") || name.ends_with(".hpp")
        };
        for path in paths.iter().filter(is_source) {
            hash.update(&std::fs::read(path).unwrap());
        }
    }
    let hash = hash.finalize().to_hex();
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&built).unwrap();
    let library = built.join(format!("{file}-{}.so", &hash[..16]));
    if library.exists() {
        return library;
    }
    let part = built.join(format!("{file}-{}.part", std::process::id()));
    let output = Command::new(compiler())
        .args(["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off"])
        // What is inline in the shim must be each library's own.
        .arg("-fvisibility=hidden")
        .args(["-Wall", "-Werror", "-Wno-unknown-pragmas", "-include", "shim/cuda.hpp", "-I."])
        .arg(&source)
        .arg("-o")
        .arg(&part)
        .current_dir(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}.cu is no C++ for the shim:\n{said}");
    std::fs::rename(&part, &library).unwrap();
    library
}

// === The shim finds faults ===

fn faulty(kernel: &str, threads: u32, shared: usize) -> Vec<u8> {
    let mut memory = Memory::default();
    let out = memory.put(&vec![0; threads as usize * 4]);
    let launch = Launch { file: "faulty", kernel, grid: [1, 1, 1], threads, shared };
    memory.launch(launch, &[Arg::Wide(out)]);
    memory.at(out).to_vec()
}

/// What a kernel's launch panics with.
fn fault(kernel: &'static str, threads: u32, shared: usize) -> String {
    let outcome = std::panic::catch_unwind(|| faulty(kernel, threads, shared));
    let why = outcome.expect_err("the fault was not found");
    why.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn faults_of_kernels_are_found() {
    if is_missing() {
        return;
    }
    for (kernel, threads, why) in [
        ("lacks_a_barrier", 64, "when threads run in another order"),
        ("waits_for_ever", 64, "wait for each other for ever"),
        ("leaves_early", 32, "a lane of the mask has ended"),
        ("writes_beyond", 32, "wrote beyond buffer 0"),
        ("has_too_little_shared_memory", 32, "shared memory written beyond its 64 bytes"),
        ("has_its_barrier", 32, "a kernel of 64 threads"),
        ("is_nowhere", 32, "no kernel is_nowhere"),
    ] {
        let found = fault(kernel, threads, 64);
        assert!(found.contains(why), "{kernel}: {found}");
    }
}

#[test]
fn kernels_without_a_fault_run() {
    if is_missing() {
        return;
    }
    let reversed: Vec<u8> = (0..64u32).rev().flat_map(u32::to_le_bytes).collect();
    assert_eq!(faulty("has_its_barrier", 64, 0), reversed);
    let words = faulty("reads_what_nobody_wrote", 32, 128);
    let mut numbers = words.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
    assert!(numbers.all(f32::is_nan));
}

const GUARD: u8 = 0xa5;
const ALIGN: usize = 256;
