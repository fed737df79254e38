//! What a host is, beside its devices: its labels, its memory.
//!
//! Labels have Kubernetes' names and syntax, so that a specification's selectors and topology keys
//! mean here what they mean there.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::Path};

use super::identity;

/// The label with a host's name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label with its zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// The label with its rack.
pub(crate) const RACK: &str = "troupe.dev/rack";

/// A label as it is written on the command line: `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    key: String,
    value: String,
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
    fn memory_is_shared_by_devices() {
        let text = "MemFree:  1 kB\nMemTotal:       16303428 kB\nBuffers: 2 kB\n";
        assert_eq!(total(text), Some(16_303_428 << 10));
        assert_eq!(total("nonsense"), None);
        assert!(device_memory(1) >= 4 * device_memory(4));
        assert!(device_memory(1) > 0, "this machine says how much it has");
    }
}
