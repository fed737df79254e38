//! What a host is, beside its devices: its labels, its memory.
//!
//! Labels have Kubernetes' names and syntax, so that a specification's selectors and topology keys
//! mean here what they mean there.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::Path};

use troupe_gpu::{
    DeviceChoice,
    choose::Decision,
    cuda::{claim::Wish, driver::DeviceFacts, images::Images},
};
use troupe_runtime::discovery::directory::Launch;

use super::identity;

/// The label with a host's name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label with its zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// The label with its rack.
pub(crate) const RACK: &str = "troupe.dev/rack";

/// The devices that a host offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// `cpu` or `cuda`.
    pub(crate) kind: &'static str,
    /// How many.
    pub(crate) count: u32,
    /// Bytes of memory of each, of the smallest if they differ.
    pub(crate) memory: u64,
    /// What members here run on unless their model says otherwise.
    pub(crate) choice: DeviceChoice,
}

/// A label as it is written on the command line: `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    key: String,
    value: String,
}

// === impl Offer ===

impl Offer {
    /// So many shares of this host's processors and memory.
    pub(crate) fn cpu(count: u32) -> Self {
        let memory = device_memory(count);
        Self { kind: "cpu", count, memory, choice: DeviceChoice::Auto }
    }

    /// What one launch on this machine alone needs.
    pub(crate) fn of_launch(launch: &Launch) -> Self {
        Self::cpu(launch.tensor_parallel.saturating_mul(launch.pipeline_parallel))
    }

    /// What a host offers by `--device`, and `--devices` if that was said: every CUDA device that
    /// can be used, or else one share of the processors.
    ///
    /// # Errors
    /// Why there is no CUDA device, if one was asked for.
    pub(crate) fn of_host(choice: DeviceChoice, count: Option<u32>) -> Result<Self, String> {
        let kernels = Images::Real(super::kernel_cache());
        let decision = choice.here(&kernels).map_err(|error| error.to_string())?;
        let Decision::Cuda(devices, wish) = decision else {
            // Whatever members are told, they find no other.
            return Ok(Self { choice: DeviceChoice::Cpu, ..Self::cpu(count.unwrap_or(1)) });
        };
        let own = |device: &&DeviceFacts| match wish {
            Wish::Any => true,
            Wish::Ordinal(ordinal) => device.ordinal == ordinal,
        };
        let memory = devices.iter().filter(own).map(|device| device.memory).min().unwrap_or(0);
        let found = devices.iter().filter(own).count() as u32;
        let choice = match wish {
            Wish::Any => DeviceChoice::Cuda(None),
            Wish::Ordinal(ordinal) => DeviceChoice::Cuda(Some(ordinal)),
        };
        Ok(Self { kind: "cuda", count: count.unwrap_or(found), memory, choice })
    }
}

// === impl Label ===

impl Label {
    /// Reads `key=value`.
    ///
    /// # Errors
    /// What a label may look like, if this one does not.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
        let name = match key.split_once('/') {
            Some((prefix, name)) if is_word(prefix, 253) => name,
            Some((prefix, _)) => return Err(format!("`{prefix}` is no DNS name")),
            None => key,
        };
        if !is_word(name, 63) {
            return Err(format!("the key `{key}` is not {WORD}, with `DOMAIN/` before it or not"));
        }
        Self::of(key, value)
    }

    /// A value under a known key.
    ///
    /// # Errors
    /// What a value may look like, if this one does not.
    pub(crate) fn of(key: &str, value: &str) -> Result<Self, String> {
        if !value.is_empty() && !is_word(value, 63) {
            return Err(format!("the value `{value}` is not {WORD}"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// What a host says of itself. A label that a person gives goes before one that is derived.
pub(crate) fn labels(name: &str, given: &[Label]) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(HOSTNAME.to_owned(), name.to_owned())]);
    labels.extend(given.iter().map(|label| (label.key.clone(), label.value.clone())));
    labels
}

/// Bytes of memory for each of a host's devices, which are shares of its processors and memory; 0
/// if the kernel does not say how much there is.
pub(crate) fn device_memory(devices: u32) -> u64 {
    let read = |path: &str| fs::read_to_string(path).ok();
    let host = read("/proc/meminfo").as_deref().and_then(total);
    // What the container may use, where there is one; `max` is no number.
    let own = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    host.into_iter().chain(own).min().unwrap_or(0) / u64::from(devices.max(1))
}

/// Which data directory of which machine this is: the same after every restart, another for a copy.
pub(crate) fn home(data_dir: &Path) -> io::Result<String> {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| identity::host_name());
    let folder = fs::metadata(data_dir)?;
    Ok(format!("{} {}:{}", machine.trim(), folder.dev(), folder.ino()))
}

/// The line `MemTotal:  16303428 kB`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn is_word(text: &str, most: usize) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    ends && text.len() <= most && text.chars().all(inner)
}

const WORD: &str = "a word of at most 63 letters, digits, `-`, `_` and `.` that begins and ends \
                    with a letter or a digit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kubernetes_labels() {
        for good in ["a=b", "example.com/gpu=h100", "a=", "a.b_c-d=1.2_3-4"] {
            assert!(Label::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for (bad, why) in [
            ("a", "KEY=VALUE"),
            ("=b", "the key"),
            ("-a=b", "the key"),
            ("a b=c", "the key"),
            ("exa mple/a=b", "DNS name"),
            ("a/b/c=d", "the key"),
            ("a=-b", "the value"),
            (&format!("a={long}"), "63"),
            (&format!("{long}=a"), "63"),
        ] {
            let error = Label::parse(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn what_a_person_says_goes_before_what_is_derived() {
        let given = [Label::parse("kubernetes.io/hostname=other"), Label::of(ZONE, "z1")];
        let given = given.map(|label| label.expect("a label"));
        let labels = labels("host", &given);
        assert_eq!(labels["kubernetes.io/hostname"], "other");
        assert_eq!(labels["topology.kubernetes.io/zone"], "z1");
    }

    #[test]
    fn a_copy_of_a_data_directory_is_another_home() {
        let dir = tempfile::tempdir().expect("a folder");
        let [one, copy] = ["one", "copy"].map(|name| dir.path().join(name));
        for folder in [&one, &copy] {
            fs::create_dir(folder).expect("a folder");
        }
        let home = |folder: &Path| home(folder).expect("it is there");
        assert_eq!(home(&one), home(&one));
        assert_ne!(home(&one), home(&copy));
    }

    #[test]
    fn a_host_offers_what_it_is_told_to() {
        let cpu = Offer::of_host(DeviceChoice::Cpu, Some(3)).expect("every machine has one");
        assert_eq!((cpu.kind, cpu.count, cpu.choice), ("cpu", 3, DeviceChoice::Cpu));
        let any = Offer::of_host(DeviceChoice::Auto, None).expect("at least the CPU");
        assert!(any.count > 0 && any.memory > 0, "{any:?}");
        match Offer::of_host(DeviceChoice::Cuda(None), None) {
            Ok(cuda) => assert_eq!((cuda.kind, any.kind), ("cuda", "cuda")),
            Err(why) => assert!(why.contains("--device cuda: ") && any.kind == "cpu", "{why}"),
        }
    }

    #[test]
    fn memory_is_shared_by_devices() {
        let text = "MemFree:  1 kB\nMemTotal:       16303428 kB\nBuffers: 2 kB\n";
        assert_eq!(total(text), Some(16_303_428 << 10));
        assert_eq!(total("nonsense"), None);
        assert!(device_memory(1) >= 4 * device_memory(4));
        assert!(device_memory(1) > 0, "this machine says how much it has");
    }
}
