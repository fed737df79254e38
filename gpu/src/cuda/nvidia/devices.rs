//! What devices there are, asked of the driver library once for each process.

use std::{
    ffi::{CStr, c_char},
    sync::{Arc, OnceLock},
};

use super::{
    api::{self, Api, CAPABILITY_MAJOR, CAPABILITY_MINOR, MULTIPROCESSORS, SHARED_MEMORY_OF_BLOCK},
    library::LibraryError,
};
use crate::cuda::driver::{DeviceFacts, DriverError};

/// Why there is no device to be had here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The driver library is not installed.
    #[error(
        "no NVIDIA driver: {0}. Install the driver, or give the container the device \
         (`--gpus all`, nvidia-container-toolkit)"
    )]
    NoDriver(String),
    /// It is, but too old.
    #[error("the NVIDIA driver is too old: {0}. Driver 525 (CUDA 12.0) or a later one is needed")]
    OldDriver(String),
    /// The driver is there and has nothing to drive.
    #[error(
        "the NVIDIA driver shows no device: {0}. `nvidia-smi` and CUDA_VISIBLE_DEVICES say which \
         there are and which are hidden"
    )]
    NoDevice(String),
    /// It does not start.
    #[error("the NVIDIA driver does not start: {0}. `nvidia-smi` says why")]
    Broken(String),
}

/// The devices that the driver shows, in its order.
///
/// # Errors
/// [`Absent`], which says what is missing and what helps.
pub fn devices() -> Result<Vec<DeviceFacts>, Absent> {
    let api = driver()?;
    let mut count = 0;
    // SAFETY: `count` is a place for a number.
    let asked = api.check("cuDeviceGetCount", unsafe { (api.cuDeviceGetCount)(&raw mut count) });
    asked.map_err(|error| Absent::Broken(error.to_string()))?;
    if count < 1 {
        return Err(Absent::NoDevice("it counts none".into()));
    }
    let facts = (0..count.cast_unsigned()).map(|ordinal| facts(&api, ordinal));
    facts.collect::<Result<_, _>>().map_err(|error| Absent::Broken(error.to_string()))
}

/// The driver library, loaded and initialized when it is first asked for.
pub(super) fn driver() -> Result<Arc<Api>, Absent> {
    // Once for a process, because the library is initialized once for a process; it holds no state
    // of ours.
    static DRIVER: OnceLock<Result<Arc<Api>, Absent>> = OnceLock::new();
    DRIVER.get_or_init(start).clone()
}

fn start() -> Result<Arc<Api>, Absent> {
    let api = Api::open(&api::names()).map_err(|error| match error {
        LibraryError::NotFound { .. } => Absent::NoDriver(error.to_string()),
        LibraryError::NoFunction { .. } => Absent::OldDriver(error.to_string()),
    })?;
    // SAFETY: it takes no memory of ours.
    let code = unsafe { (api.cuInit)(0) };
    if let Err(error) = api.check("cuInit", code) {
        return Err(match code {
            api::NO_DEVICE => Absent::NoDevice(error.to_string()),
            code if api::MISMATCH.contains(&code) => Absent::OldDriver(error.to_string()),
            _ => Absent::Broken(error.to_string()),
        });
    }
    let version = version(&api).map_err(|error| Absent::Broken(error.to_string()))?;
    match version >= LEAST_VERSION {
        true => Ok(Arc::new(api)),
        false => Err(Absent::OldDriver(format!("it speaks CUDA {}", spoken(version)))),
    }
}

fn version(api: &Api) -> Result<u32, DriverError> {
    let mut version = 0;
    // SAFETY: `version` is a place for a number.
    let code = unsafe { (api.cuDriverGetVersion)(&raw mut version) };
    api.check("cuDriverGetVersion", code)?;
    Ok(version.unsigned_abs())
}

/// 12040 as 12.4.
fn spoken(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What one device is.
pub(super) fn facts(api: &Api, ordinal: u32) -> Result<DeviceFacts, DriverError> {
    let device = device(api, ordinal)?;
    let mut name = [0 as c_char; 256];
    // SAFETY: `name` has so many bytes; the library ends it with zero.
    let code = unsafe { (api.cuDeviceGetName)(name.as_mut_ptr(), name.len() as i32, device) };
    api.check("cuDeviceGetName", code)?;
    // SAFETY: the array ends with zero, because it was all zeros and the library writes within it.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut uuid = [0; 16];
    // SAFETY: `uuid` is a place for sixteen bytes.
    let code = unsafe { (api.cuDeviceGetUuid_v2)(&raw mut uuid, device) };
    api.check("cuDeviceGetUuid", code)?;
    let mut memory = 0;
    // SAFETY: `memory` is a place for a number.
    let code = unsafe { (api.cuDeviceTotalMem_v2)(&raw mut memory, device) };
    api.check("cuDeviceTotalMem", code)?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: `value` is a place for a number.
        let code = unsafe { (api.cuDeviceGetAttribute)(&raw mut value, attribute, device) };
        api.check("cuDeviceGetAttribute", code).map(|()| value.max(0).cast_unsigned())
    };
    Ok(DeviceFacts {
        ordinal,
        name,
        uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
        memory: memory as u64,
        multiprocessors: attribute(MULTIPROCESSORS)?,
        shared_memory: attribute(SHARED_MEMORY_OF_BLOCK)?,
        driver_version: version(api)?,
    })
}

/// What the library calls the device with this number.
pub(super) fn device(api: &Api, ordinal: u32) -> Result<i32, DriverError> {
    let mut device = 0;
    // SAFETY: `device` is a place for a number; one too many is an error.
    let code = unsafe { (api.cuDeviceGet)(&raw mut device, ordinal.cast_signed()) };
    api.check("cuDeviceGet", code)?;
    Ok(device)
}

/// What cubins of the 12.9 compiler need.
const LEAST_VERSION: u32 = 12_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_devices_or_a_reason_that_says_what_helps() {
        match devices() {
            Ok(devices) => assert!(devices.iter().all(|device| device.memory > 0), "{devices:?}"),
            Err(absent) => {
                let said = absent.to_string();
                assert!(said.contains("nvidia-smi") || said.contains("river"), "{said}");
            }
        }
        assert_eq!(spoken(12_040), "12.4");
    }
}
