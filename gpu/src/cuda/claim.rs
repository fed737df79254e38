//! Whose a device is. A rank takes a device for itself by a lock on a file that is named after the
//! device, so that two members on one host never land on one by accident, whoever started them;
//! the lock ends with its process, however that ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::driver::DeviceFacts;
use crate::error::DeviceError;

/// A device that is this rank's for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// Its number.
    pub ordinal: u32,
    /// The lock; none where the device is shared.
    _lock: Option<File>,
}

/// Which devices a rank may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The first that nobody has.
    Any,
    /// This one.
    Ordinal(u32),
}

/// How ranks share devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each has one for itself.
    Alone,
    /// Several may have one (`--allow-shared-device`); this is rank number so many of its process.
    Shared(u32),
}

impl Claim {
    /// Takes a device of `devices`, whose locks are in `folder`.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] naming the device that others have, or that there is none of
    /// this number, and what helps.
    pub fn take(
        devices: &[DeviceFacts],
        wish: Wish,
        sharing: Sharing,
        folder: &Path,
    ) -> Result<Self, DeviceError> {
        let candidates: Vec<&DeviceFacts> = match wish {
            Wish::Any => devices.iter().collect(),
            Wish::Ordinal(ordinal) => {
                devices.iter().filter(|device| device.ordinal == ordinal).collect()
            }
        };
        if candidates.is_empty() {
            let count = devices.len();
            let what = match wish {
                Wish::Any => "any device".to_owned(),
                Wish::Ordinal(ordinal) => format!("--device cuda:{ordinal}"),
            };
            return Err(DeviceError::Unsupported(format!(
                "{what} is not there: the driver shows {count}, counted from 0 \
                 (CUDA_VISIBLE_DEVICES hides devices and counts anew)"
            )));
        }
        if let Sharing::Shared(rank) = sharing {
            let ordinal = candidates[rank as usize % candidates.len()].ordinal;
            return Ok(Self { ordinal, _lock: None });
        }
        for device in &candidates {
            let path = lock_path(folder, device);
            match lock(&path) {
                Ok(Some(file)) => return Ok(Self { ordinal: device.ordinal, _lock: Some(file) }),
                Ok(None) => {}
                Err(error) => {
                    return Err(DeviceError::Unsupported(format!(
                        "whether device {} is taken cannot be told: {}: {error}. \
                         --allow-shared-device does not ask",
                        device.ordinal,
                        path.display()
                    )));
                }
            }
        }
        let names: Vec<String> = candidates
            .iter()
            .map(|device| format!("cuda:{} ({})", device.ordinal, device.name))
            .collect();
        Err(DeviceError::Unsupported(format!(
            "{} is another rank's. Each rank has a device for itself: start fewer ranks on this \
             host, or share with --allow-shared-device and a --gpu-memory-utilization for each \
             that leaves room for the others",
            names.join(", ")
        )))
    }
}

fn lock_path(folder: &Path, device: &DeviceFacts) -> PathBuf {
    folder.join(format!("troupe-device-{}.lock", device.uuid))
}

/// The file with its lock, or nothing if somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{driver::Driver, fake::FakeDriver};

    fn devices(count: u32) -> Vec<DeviceFacts> {
        let facts = FakeDriver::new(0).facts().clone();
        let one =
            |ordinal| DeviceFacts { ordinal, uuid: format!("{ordinal:032x}"), ..facts.clone() };
        (0..count).map(one).collect()
    }

    #[test]
    fn each_rank_has_a_device_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let take = |wish| Claim::take(&devices(2), wish, Sharing::Alone, folder.path());
        let first = take(Wish::Any).unwrap();
        let second = take(Wish::Any).unwrap();
        assert_eq!((first.ordinal, second.ordinal), (0, 1));
        let error = take(Wish::Any).unwrap_err().to_string();
        assert!(error.contains("--allow-shared-device") && error.contains("cuda:1"), "{error}");
        assert!(take(Wish::Ordinal(0)).is_err());
        drop(first);
        assert_eq!(take(Wish::Ordinal(0)).unwrap().ordinal, 0);
    }

    #[test]
    fn shared_devices_are_dealt_out_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let of = |rank| {
            let shared = Sharing::Shared(rank);
            Claim::take(&devices(2), Wish::Any, shared, folder.path()).unwrap().ordinal
        };
        assert_eq!([0, 1, 2, 3].map(of), [0, 1, 0, 1]);
    }

    #[test]
    fn a_number_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wish = Wish::Ordinal(7);
        let error = Claim::take(&devices(2), wish, Sharing::Alone, folder.path()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("cuda:7") && said.contains("shows 2"), "{said}");
    }
}
