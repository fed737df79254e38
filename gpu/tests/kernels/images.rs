//! Every kernel compiled by NVRTC, which needs no GPU, for each architecture that a release has.
//!
//! NVRTC is looked for in the directory that `TROUPE_NVRTC_DIR` names and where `make test-tools`
//! puts it. `TROUPE_KERNEL_TABLE` names a file that gets the table of registers and shared memory
//! which `docs/cuda-kernels.md` shows.

use std::{fmt::Write, path::Path};

use troupe_gpu::cuda::{
    compile::{Cache, CompileError, Compiler, installed_below},
    sources::{KERNELS, Source},
};

use crate::skip::skipped;

/// What a release has images for.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

/// What the assembler says of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    kernel: String,
    stack: u32,
    spills: u32,
    registers: u32,
    shared: u32,
}

#[expect(clippy::disallowed_methods, reason = "whoever runs it says where NVRTC is")]
fn compiler() -> Option<Compiler> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let named = std::env::var_os("TROUPE_NVRTC_DIR").map(Into::into);
    let directories: Vec<_> = named.into_iter().chain(installed_below(checkout)).collect();
    match Compiler::open(&directories) {
        Ok(compiler) => Some(compiler),
        Err(CompileError::NotFound(_)) => {
            skipped("no NVRTC (`make test-tools` fetches one)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The reports in a log of `--ptxas-options=-v`.
fn reports(log: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in log.lines() {
        let before = |word: &str| -> u32 {
            let text = line.split(word).next().unwrap_or_default();
            text.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            reports.push(Report { kernel, stack: 0, spills: 0, registers: 0, shared: 0 });
        }
        let Some(report) = reports.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            report.stack = before(" bytes stack frame");
            report.spills = before(" bytes spill stores") + before(" bytes spill loads");
        }
        if line.contains("Used ") {
            report.registers = before(" registers");
            if line.contains(" bytes smem") {
                report.shared = before(" bytes smem");
            }
        }
    }
    reports
}

#[test]
fn logs_are_read() {
    let log = "ptxas info : Compiling entry function 'add' for 'sm_80'\n\
               ptxas . 8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
               ptxas info : Used 19 registers, used 1 barriers, 64 bytes smem, 388 bytes cmem\n";
    let expected =
        Report { kernel: "add".to_owned(), stack: 8, spills: 16, registers: 19, shared: 64 };
    assert_eq!(reports(log), [expected]);
}

#[test]
fn all_kernels_compile_for_all_architectures_without_spills() {
    let Some(compiler) = compiler() else { return };
    let mut rows: Vec<(String, Vec<Report>)> = Vec::new();
    for source in KERNELS {
        let compile = |architecture: &str| {
            let image = compiler.compile(source, architecture).unwrap();
            assert!(image.cubin.starts_with(b"\x7fELF"), "{} is no cubin", source.name);
            reports(&image.log)
        };
        let of_source: Vec<Vec<Report>> = std::thread::scope(|scope| {
            let running =
                ARCHITECTURES.map(|architecture| scope.spawn(move || compile(architecture)));
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let kernels = of_source[0].len();
        assert!(kernels > 0 && of_source.iter().all(|r| r.len() == kernels), "{}", source.name);
        for report in of_source.iter().flatten() {
            assert_eq!(report.spills, 0, "{report:?} of {}", source.name);
            assert!(report.registers > 0, "the log of {} says nothing", source.name);
        }
        for number in 0..kernels {
            let name = of_source[0][number].kernel.clone();
            let own = of_source.iter().map(|reports| {
                reports.iter().find(|report| report.kernel == name).cloned().unwrap()
            });
            rows.push((name.clone(), own.collect()));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(path) = table_file() {
        std::fs::write(path, table(&rows)).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "whoever runs it says whether to write the file")]
fn table_file() -> Option<std::ffi::OsString> {
    std::env::var_os("TROUPE_KERNEL_TABLE")
}

/// Registers by architecture, static shared memory and stack of each kernel.
fn table(rows: &[(String, Vec<Report>)]) -> String {
    let mut table = format!("| kernel | {} | shared | stack |\n", ARCHITECTURES.join(" | "));
    table.push_str("|---|---|---|---|---|---|\n");
    for (name, reports) in rows {
        let registers: Vec<String> =
            reports.iter().map(|report| report.registers.to_string()).collect();
        let shared = reports.iter().map(|report| report.shared).max().unwrap_or(0);
        let stack = reports.iter().map(|report| report.stack).max().unwrap_or(0);
        let registers = registers.join(" | ");
        writeln!(table, "| {name} | {registers} | {shared} | {stack} |").unwrap();
    }
    table
}

#[test]
fn an_image_comes_from_disk_the_second_time() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let source = Source {
        name: "twice",
        text: "#include \"common.cuh\"\nKERNEL(32, twice, (f32 * x)) { x[threadIdx.x] *= 2.0f; }",
    };
    let image = cache.image(&compiler, &source, "sm_80").unwrap();
    // What is there is taken.
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(cache.image(&compiler, &source, "sm_80").unwrap(), image);
    // What was damaged is made again.
    std::fs::write(&path, b"\x7fELF").unwrap();
    assert_eq!(cache.image(&compiler, &source, "sm_80").unwrap(), image);
    assert!(std::fs::read(&path).unwrap().starts_with(&image));
}

#[test]
fn what_does_not_compile_is_refused_with_the_compilers_words() {
    let Some(compiler) = compiler() else { return };
    let source = Source { name: "broken", text: "KERNEL(1, broken, ()) { nothing_known(); }" };
    let error = compiler.compile(&source, "sm_80").unwrap_err().to_string();
    assert!(error.contains("broken.cu") && error.contains("sm_80"), "{error}");
    let error = compiler.compile(&KERNELS[0], "sm_1").unwrap_err().to_string();
    assert!(error.contains("sm_1"), "{error}");
}
