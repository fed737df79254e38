//! The functions of the driver library that are called, and the numbers that it means things by
//! ("CUDA Driver API", NVIDIA's reference).

use std::{
    ffi::{CStr, c_char, c_void},
    path::PathBuf,
    ptr,
};

use super::library::functions;
use crate::cuda::driver::{DriverError, Fault};

/// What every function returns; 0 is success.
pub(super) type Code = i32;
/// What contexts, streams, events, modules, functions and graphs are known by.
pub(super) type Handle = *mut c_void;

functions! {
    /// The driver library.
    struct Api returns Code {
        fn cuInit(flags: u32);
        fn cuDriverGetVersion(version: *mut i32);
        fn cuGetErrorName(code: Code, name: *mut *const c_char);
        fn cuGetErrorString(code: Code, text: *mut *const c_char);
        fn cuDeviceGetCount(count: *mut i32);
        fn cuDeviceGet(device: *mut i32, ordinal: i32);
        fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32);
        fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32);
        fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32);
        fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32);
        fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32);
        fn cuDevicePrimaryCtxRelease_v2(device: i32);
        fn cuCtxSetCurrent(context: Handle);
        fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        fn cuMemAlloc_v2(address: *mut u64, bytes: usize);
        fn cuMemFree_v2(address: u64);
        fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, flags: u32);
        fn cuMemFreeHost(memory: *mut c_void);
        fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle);
        fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle);
        fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle);
        fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: Handle);
        fn cuModuleLoadData(module: *mut Handle, image: *const c_void);
        fn cuModuleUnload(module: Handle);
        fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char);
        fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: Handle);
        fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32);
        fn cuLaunchKernel(
            function: Handle,
            grid_x: u32,
            grid_y: u32,
            grid_z: u32,
            block_x: u32,
            block_y: u32,
            block_z: u32,
            shared: u32,
            stream: Handle,
            params: *mut *mut c_void,
            extra: *mut *mut c_void,
        );
        fn cuStreamCreate(stream: *mut Handle, flags: u32);
        fn cuStreamDestroy_v2(stream: Handle);
        fn cuStreamSynchronize(stream: Handle);
        fn cuStreamBeginCapture_v2(stream: Handle, mode: i32);
        fn cuStreamEndCapture(stream: Handle, graph: *mut Handle);
        fn cuEventCreate(event: *mut Handle, flags: u32);
        fn cuEventDestroy_v2(event: Handle);
        fn cuEventRecord(event: Handle, stream: Handle);
        fn cuEventSynchronize(event: Handle);
        fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, flags: u64);
        fn cuGraphDestroy(graph: Handle);
        fn cuGraphLaunch(exec: Handle, stream: Handle);
        fn cuGraphExecDestroy(exec: Handle);
    }
}

/// The names that the driver library goes by.
pub(super) fn names() -> Vec<PathBuf> {
    ["libcuda.so.1", "libcuda.so"].map(PathBuf::from).to_vec()
}

impl Api {
    /// Turns a code into a result that names the call.
    pub(super) fn check(&self, call: &'static str, code: Code) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        let text = |function: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
            let mut text = ptr::null();
            // SAFETY: `text` is a place for a pointer, which becomes that of a constant string.
            let known = unsafe { function(code, &raw mut text) } == 0 && !text.is_null();
            // SAFETY: a string of the library's own, which ends with zero and is never changed.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let name = text(self.cuGetErrorName).unwrap_or_else(|| format!("error {code}"));
        let about = text(self.cuGetErrorString).unwrap_or_default();
        Err(DriverError { fault: fault(code), call, detail: format!("{name} ({about})") })
    }
}

/// What kind of failure a code means.
fn fault(code: Code) -> Fault {
    match code {
        2 => Fault::OutOfMemory,
        // No binary for the GPU, an image that is none, a PTX that the driver does not know.
        200 | 209 | 218 | 222 => Fault::WrongImage,
        // Not initialized any more, unavailable, memory that cannot be corrected, contained errors,
        // and what kernels do to their context: addresses, instructions, timeouts, a lost context.
        3 | 4 | 46 | 214 | 226 | 700 | 702 | 709 | 713..=719 | 805..=812 | 911 | 999 => Fault::Lost,
        _ => Fault::Other,
    }
}

/// Attributes of a device.
pub(super) const MULTIPROCESSORS: i32 = 16;
pub(super) const CAPABILITY_MAJOR: i32 = 75;
pub(super) const CAPABILITY_MINOR: i32 = 76;
pub(super) const SHARED_MEMORY_OF_BLOCK: i32 = 97;
/// Attribute of a function: the shared memory that it declares.
pub(super) const OWN_SHARED_MEMORY: i32 = 1;
/// Attribute of a function: the shared memory that a launch may ask for beside that.
pub(super) const DYNAMIC_SHARED_MEMORY: i32 = 8;
/// A stream that does not wait for the one that nobody names.
pub(super) const STREAM_NON_BLOCKING: u32 = 1;
/// An event that only tells whether it has come.
pub(super) const EVENT_WITHOUT_TIME: u32 = 2;
/// Only this thread's calls are captured.
pub(super) const CAPTURE_OF_THREAD: i32 = 1;
/// The code for a machine without devices.
pub(super) const NO_DEVICE: Code = 100;
/// A library that does not fit the kernel's part of the driver.
pub(super) const MISMATCH: [Code; 2] = [803, 804];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_failures() {
        assert_eq!(fault(2), Fault::OutOfMemory);
        assert_eq!(fault(209), Fault::WrongImage);
        assert_eq!(fault(700), Fault::Lost);
        assert_eq!(fault(719), Fault::Lost);
        assert_eq!(fault(500), Fault::Other);
    }
}
