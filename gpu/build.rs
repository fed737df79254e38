//! Compiles the CUDA kernels into the binary, where `TROUPE_NVRTC_DIR` names a folder with NVRTC: a
//! release build does. Without it nothing is embedded and the build is as fast as it was; a device
//! then needs NVRTC where it runs.

#![allow(clippy::print_stdout, reason = "so a build script speaks to cargo")]
#![allow(clippy::disallowed_methods, reason = "so cargo speaks to a build script")]

#[allow(dead_code, unreachable_pub, reason = "they are written for the crate")]
#[path = "src/cuda/compile.rs"]
mod compile;
#[allow(unreachable_pub, reason = "they are written for the crate")]
#[path = "src/cuda/sources.rs"]
mod sources;

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

/// A100; L4 and L40; H100 and H200.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=TROUPE_NVRTC_DIR");
    for path in ["kernels", "src/cuda/compile.rs", "src/cuda/sources.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut table = String::from("&[\n");
    if let Some(nvrtc) = env::var_os("TROUPE_NVRTC_DIR") {
        let compiler = compile::Compiler::open(&[nvrtc.into()])?;
        let cache = compile::Cache::new(out.join("cubins"));
        for architecture in ARCHITECTURES {
            for source in sources::KERNELS {
                let image = cache.image(&compiler, source, architecture)?;
                let path = out.join(format!("{}-{architecture}.cubin", source.name));
                fs::write(&path, image)?;
                let name = source.name;
                writeln!(table, "({name:?}, {architecture:?}, include_bytes!({path:?})),")?;
            }
        }
    }
    table.push(']');
    fs::write(out.join("cubins.rs"), table)?;
    Ok(())
}
