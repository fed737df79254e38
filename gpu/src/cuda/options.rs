//! What a device is opened with, and the name of the path that follows from it.

use super::driver::DeviceFacts;
use crate::{dtype::Dtype, error::DeviceError};

/// How a device is to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Type of activations between operations.
    pub activations: Dtype,
    /// Whether a row's bits may not depend on what else is in its step: our own kernels alone then,
    /// whose sums have one order.
    pub batch_invariant: bool,
    /// Whether decode steps are captured as graphs.
    pub graphs: bool,
    /// Threads that pack weights while they load.
    pub threads: usize,
}

/// The path's name: part of the execution fingerprint, so it says what decides bits.
///
/// # Errors
/// [`DeviceError::Unsupported`] for a device that is older than what kernels need.
pub fn path_name(facts: &DeviceFacts, own_kernels: bool) -> Result<&'static str, DeviceError> {
    let names = match facts.capability {
        (8, 0) => ("cuda/sm_80", "cuda/sm_80+cublaslt"),
        (8, 6) => ("cuda/sm_86", "cuda/sm_86+cublaslt"),
        (8, 7) => ("cuda/sm_87", "cuda/sm_87+cublaslt"),
        (8, 9) => ("cuda/sm_89", "cuda/sm_89+cublaslt"),
        (9, 0) => ("cuda/sm_90a", "cuda/sm_90a+cublaslt"),
        (10, 0) => ("cuda/sm_100a", "cuda/sm_100a+cublaslt"),
        (10, 3) => ("cuda/sm_103a", "cuda/sm_103a+cublaslt"),
        (11, 0) => ("cuda/sm_110a", "cuda/sm_110a+cublaslt"),
        (12, 0) => ("cuda/sm_120a", "cuda/sm_120a+cublaslt"),
        (12, 1) => ("cuda/sm_121a", "cuda/sm_121a+cublaslt"),
        (major, _) if major >= 8 => ("cuda/newer", "cuda/newer+cublaslt"),
        (major, minor) => {
            return Err(DeviceError::Unsupported(format!(
                "{} has compute capability {major}.{minor}; 8.0 (A100) or a later one is needed. \
                 --device cpu runs without it",
                facts.name
            )));
        }
    };
    Ok(if own_kernels { names.0 } else { names.1 })
}

/// Whether a path's bits do not depend on what else is in a step.
pub fn is_batch_invariant(path: &str) -> bool {
    !path.ends_with(LIBRARY)
}

/// The architecture that kernels are compiled for, as compilers name it.
pub fn architecture((major, minor): (u32, u32)) -> String {
    // What is named with an `a` runs on exactly that capability, and may use all that it has.
    let own = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

/// How paths end whose dense products are the vendor's.
const LIBRARY: &str = "+cublaslt";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{driver::Driver, fake::FakeDriver};

    #[test]
    fn paths_say_what_decides_bits() {
        let facts = |capability| FakeDriver::new(0).with_capability(capability).facts().clone();
        assert_eq!(path_name(&facts((9, 0)), true).unwrap(), "cuda/sm_90a");
        let by_library = path_name(&facts((9, 0)), false).unwrap();
        assert_eq!(by_library, "cuda/sm_90a+cublaslt");
        assert!(!is_batch_invariant(by_library) && is_batch_invariant("cuda/sm_90a"));
        let error = path_name(&facts((7, 5)), true).unwrap_err().to_string();
        assert!(error.contains("7.5") && error.contains("--device cpu"), "{error}");
        assert_eq!(architecture((8, 9)), "sm_89");
        assert_eq!(architecture((9, 0)), "sm_90a");
    }
}
