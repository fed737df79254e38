//! Which device a rank runs on: what was asked for, what this machine has, and what follows.
//!
//! `auto` takes a CUDA device if the driver, a device that kernels run on, and kernels for it are
//! all there, else the CPU, and says what is missing. Whoever asks for `cuda` is told the same as
//! an error. The decision is a plain function of what was found.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use crate::{
    cpu::{CpuDevice, CpuOptions},
    cuda::{
        CudaDevice, CudaOptions,
        claim::{Claim, Sharing, Wish},
        driver::{DeviceFacts, Driver},
        images::Images,
        nvidia::{self, Absent, Nvidia},
        options::path_name,
    },
    error::DeviceError,
    executor::Executor,
    load::{LoadRequest, cuda_plan},
    stage::RankExecutor,
};

/// What `--device` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A CUDA device if there is one that can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device: the first that is free, or the one of this number.
    Cuda(Option<u32>),
}

/// The device that a rank is to be loaded onto.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRequest {
    /// What was asked for.
    pub choice: DeviceChoice,
    /// How the CPU is set up if it is that.
    pub cpu: CpuOptions,
    /// How a CUDA device is used if it is that.
    pub cuda: CudaRequest,
}

/// How a CUDA device is used.
#[derive(Clone, Debug, PartialEq)]
pub struct CudaRequest {
    /// The share of its memory that this rank may use, in thousandths.
    pub utilization: u32,
    /// Bytes for KV, if somebody said how many.
    pub kv_bytes: Option<u64>,
    /// Whether bits may not depend on what else is in a step.
    pub batch_invariant: bool,
    /// Whether decode steps are captured as graphs.
    pub graphs: bool,
    /// Whether other ranks may have the device too.
    pub sharing: Sharing,
    /// Where locks on devices are.
    pub locks: PathBuf,
    /// Where kernels are kept that were compiled here.
    pub kernels: PathBuf,
}

/// What a choice comes to on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The CPU, and why not a CUDA device if that was looked for.
    Cpu(Option<String>),
    /// One of these CUDA devices.
    Cuda(Vec<DeviceFacts>, Wish),
}

// === impl DeviceRequest ===

impl DeviceRequest {
    /// The CPU, so.
    pub fn cpu(cpu: CpuOptions) -> Self {
        Self { choice: DeviceChoice::Cpu, cpu, cuda: CudaRequest::default() }
    }
}

impl Default for CudaRequest {
    fn default() -> Self {
        Self {
            utilization: DEFAULT_UTILIZATION,
            kv_bytes: None,
            batch_invariant: false,
            graphs: true,
            sharing: Sharing::Alone,
            locks: std::env::temp_dir(),
            kernels: std::env::temp_dir().join("troupe-kernels"),
        }
    }
}

// === impl DeviceChoice ===

impl DeviceChoice {
    /// What it comes to where `found` was found; `kernels` says whether there are kernels for a
    /// device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if a CUDA device was asked for by name and cannot be had: what
    /// is missing and what helps.
    pub fn decide(
        self,
        found: Result<Vec<DeviceFacts>, Absent>,
        kernels: impl Fn(&DeviceFacts) -> Result<(), DeviceError>,
    ) -> Result<Decision, DeviceError> {
        let (wish, or_cpu) = match self {
            Self::Cpu => return Ok(Decision::Cpu(None)),
            Self::Auto => (Wish::Any, true),
            Self::Cuda(None) => (Wish::Any, false),
            Self::Cuda(Some(ordinal)) => (Wish::Ordinal(ordinal), false),
        };
        let usable = |device: &DeviceFacts| path_name(device, true).and_then(|_| kernels(device));
        let devices = found.map_err(|absent| DeviceError::Unsupported(absent.to_string()));
        let outcome = devices.and_then(|devices| {
            let wanted = |device: &&DeviceFacts| match wish {
                Wish::Any => true,
                Wish::Ordinal(ordinal) => device.ordinal == ordinal,
            };
            // One that cannot be used is passed over, unless there is no other.
            let mut why = None;
            let mut fit = Vec::new();
            for device in devices.iter().filter(wanted) {
                match usable(device) {
                    Ok(()) => fit.push(device.clone()),
                    Err(error) => why = why.or(Some(error)),
                }
            }
            match (why, fit.is_empty()) {
                (_, false) => Ok(fit),
                (Some(error), true) => Err(error),
                (None, true) => Err(DeviceError::Unsupported(format!(
                    "it is not there: the driver shows {}, counted from 0 (CUDA_VISIBLE_DEVICES \
                     hides devices and counts anew)",
                    devices.len()
                ))),
            }
        });
        match outcome {
            Ok(devices) => Ok(Decision::Cuda(devices, wish)),
            Err(error) if or_cpu => Ok(Decision::Cpu(Some(error.to_string()))),
            Err(error) => {
                let why = format!("--device {self}: {error}. --device cpu runs without");
                Err(DeviceError::Unsupported(why))
            }
        }
    }

    /// What it comes to on this machine, with these kernels.
    ///
    /// # Errors
    /// As [`Self::decide`].
    pub fn here(self, images: &Images) -> Result<Decision, DeviceError> {
        match self {
            Self::Cpu => Ok(Decision::Cpu(None)),
            _ => self.decide(nvidia::devices(), |device| images.check(device)),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) if number.parse::<u32>().is_ok() => {
                Ok(Self::Cuda(number.parse().ok()))
            }
            _ => Err(format!("`{text}` is no device: auto, cpu, cuda and cuda:N are")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Loads one rank onto the device that its request comes to here.
///
/// # Errors
/// As [`crate::load()`], and what [`DeviceChoice::decide`] says.
pub(crate) fn load(request: LoadRequest) -> Result<Box<dyn Executor>, DeviceError> {
    let images = Images::Real(request.device.cuda.kernels.clone());
    match request.device.choice.here(&images)? {
        Decision::Cpu(why) => {
            if let Some(why) = why {
                tracing::warn!("--device auto takes the CPU: {why}");
            }
            let device = CpuDevice::new(request.device.cpu)?;
            Ok(Box::new(RankExecutor::load(device, request)?))
        }
        Decision::Cuda(devices, wish) => {
            let own = &request.device.cuda;
            let claim = Claim::take(&devices, wish, own.sharing, &own.locks)?;
            let driver = Nvidia::open(claim.ordinal, !own.batch_invariant)
                .map_err(|absent| DeviceError::Unsupported(absent.to_string()))?;
            load_onto(Arc::new(driver), (images, Some(claim)), request)
        }
    }
}

/// Loads one rank onto a CUDA device, whatever drives it: plans its memory, says the plan, loads.
///
/// # Errors
/// As [`crate::load()`].
pub fn load_onto<D: Driver>(
    driver: Arc<D>,
    (images, claim): (Images, Option<Claim>),
    mut request: LoadRequest,
) -> Result<Box<dyn Executor>, DeviceError> {
    let (plan, activations) = cuda_plan(&request, driver.memory()?)?;
    let facts = driver.facts();
    tracing::info!(device = facts.ordinal, name = facts.name, "memory plan: {plan}");
    request.kv_bytes = plan.kv;
    let options = CudaOptions {
        activations,
        batch_invariant: request.device.cuda.batch_invariant,
        graphs: request.device.cuda.graphs,
        threads: request.device.cpu.threads,
    };
    let mut device = CudaDevice::new(driver, images, options)?.keeping(claim);
    device.load_kernels()?;
    Ok(Box::new(RankExecutor::load(device, request)?))
}

/// vLLM's, in thousandths.
pub const DEFAULT_UTILIZATION: u32 = 900;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::fake::FakeDriver;

    fn device(ordinal: u32, capability: (u32, u32)) -> DeviceFacts {
        let facts = FakeDriver::new(0).with_capability(capability).facts().clone();
        DeviceFacts { ordinal, ..facts }
    }

    fn no_kernels(_: &DeviceFacts) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported("no NVRTC".into()))
    }

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA"] {
            let why = text.parse::<DeviceChoice>().unwrap_err();
            assert!(why.contains("cuda:N"), "{why}");
        }
    }

    #[test]
    fn auto_falls_back_to_the_cpu_and_says_what_is_missing() {
        let absents = [
            Absent::NoDriver("libcuda.so.1".into()),
            Absent::OldDriver("it speaks CUDA 11.4".into()),
            Absent::NoDevice("it counts none".into()),
            Absent::Broken("999".into()),
        ];
        for absent in absents {
            let said = absent.to_string();
            let auto = DeviceChoice::Auto.decide(Err(absent.clone()), |_| Ok(())).unwrap();
            assert_eq!(auto, Decision::Cpu(Some(said.clone())));
            let error = DeviceChoice::Cuda(None).decide(Err(absent), |_| Ok(())).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&said) && error.contains("--device cpu"), "{error}");
        }
        let found = || Ok(vec![device(0, (9, 0))]);
        let auto = DeviceChoice::Auto.decide(found(), no_kernels).unwrap();
        assert_eq!(auto, Decision::Cpu(Some("no NVRTC".into())));
        assert!(DeviceChoice::Cuda(None).decide(found(), no_kernels).is_err());
        let old = Ok(vec![device(0, (7, 0))]);
        let error = DeviceChoice::Cuda(Some(0)).decide(old, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("compute capability 7.0"), "{error}");
    }

    #[test]
    fn devices_that_cannot_be_used_are_passed_over() {
        let found = Ok(vec![device(0, (7, 5)), device(1, (9, 0))]);
        let Decision::Cuda(devices, wish) = DeviceChoice::Auto.decide(found, |_| Ok(())).unwrap()
        else {
            panic!("there is a device");
        };
        assert_eq!((devices.len(), devices[0].ordinal, wish), (1, 1, Wish::Any));
        let none = DeviceChoice::Cuda(Some(7)).decide(Ok(vec![device(0, (9, 0))]), |_| Ok(()));
        let said = none.unwrap_err().to_string();
        assert!(said.contains("--device cuda:7: it is not there: the driver shows 1"), "{said}");
        let cpu = DeviceChoice::Cpu.decide(Err(Absent::NoDevice(String::new())), no_kernels);
        assert_eq!(cpu.unwrap(), Decision::Cpu(None));
    }
}
