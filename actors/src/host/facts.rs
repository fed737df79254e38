//! What this host is and has, as its process sees it: what is asked of every host before a cluster
//! is believed to be fit.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;
use troupe_runtime::{
    error::chain,
    model::{
        error::ModelError,
        source::{ModelAccess, ModelFiles, ModelSource},
    },
    wire::{
        self,
        host::{Disk, DiskUse, HostFacts, ModelDigests, ModelFound},
    },
};

/// What a process knows of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Version of the binary.
    pub version: String,
    /// How many devices it offers.
    pub devices: u32,
    /// Which kind: `cpu` or `cuda`.
    pub device_kind: String,
    /// Bytes of memory of each; 0 if unknown.
    pub device_memory: u64,
    /// What it must not forget; none if it lives as long as its store.
    pub data_dir: Option<PathBuf>,
    /// What can be made again.
    pub cache_dir: PathBuf,
    /// Where models named as on the hub are.
    pub hub: ModelAccess,
}

/// Looks at the host when asked.
#[derive(Clone, Debug)]
pub struct Facts {
    about: Arc<About>,
    /// One look at a time: of a disk that hangs, one thread does.
    looking: Arc<Semaphore>,
}

// === impl Facts ===

impl Facts {
    /// Of a process.
    pub fn new(about: About) -> Self {
        Self { about: Arc::new(about), looking: Arc::new(Semaphore::new(1)) }
    }

    /// Looks, also for a model if one is named.
    ///
    /// # Errors
    /// That it takes too long, within some seconds.
    pub async fn look(&self, model: Option<String>) -> Result<HostFacts, String> {
        let slow = || {
            let seconds = LOOK.as_secs();
            format!("looking at its disks takes longer than {seconds} s: see whether one hangs")
        };
        let waiting = tokio::time::timeout(LOOK, self.looking.clone().acquire_owned()).await;
        // The semaphore is never closed.
        let permit = waiting.map_err(|_| slow())?.map_err(|error| error.to_string())?;
        let about = self.about.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let facts = about.look(model.as_deref());
            drop(permit);
            facts
        });
        let looked = tokio::time::timeout(LOOK, looking).await.map_err(|_| slow())?;
        looked.map_err(|error| format!("looking at its disks failed: {error}"))
    }
}

// === impl About ===

impl About {
    /// Reads files and disks; may take as long as they do.
    fn look(&self, model: Option<&str>) -> HostFacts {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let data = self.data_dir.as_deref().map(|path| (DiskUse::Data, path));
        let folders = data.into_iter().chain([(DiskUse::Cache, self.cache_dir.as_path())]);
        HostFacts {
            version: self.version.clone(),
            wire: wire::VERSION,
            devices: self.devices,
            device_kind: self.device_kind.clone(),
            device_memory: self.device_memory,
            open_files: limit(&limits, "Max open files"),
            locked_memory: limit(&limits, "Max locked memory"),
            socket_receive: number("/proc/sys/net/core/rmem_max"),
            socket_send: number("/proc/sys/net/core/wmem_max"),
            disks: folders.map(|(what, path)| disk(what, path)).collect(),
            model: model.map(|model| found(model, &self.hub)),
        }
    }
}

/// The soft limit of a name in the text of `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The folder itself may not be there yet; what is above it is on the disk that it will be on.
fn disk(what: DiskUse, path: &Path) -> Disk {
    let free = path.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    let free = free.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    Disk { what, path: path.display().to_string(), free }
}

fn found(model: &str, hub: &ModelAccess) -> ModelFound {
    let digests = || -> Result<ModelFound, ModelError> {
        let files = ModelFiles::find(&ModelSource::resolve(model, hub)?.folder)?;
        let (model, tokenizer) = (files.model_digest()?, files.tokenizer_digest()?);
        Ok(ModelFound::Here(ModelDigests { model, tokenizer }))
    };
    digests().unwrap_or_else(|error| ModelFound::missing(chain(&error)))
}

/// How long looking may take: some small reads of each weight file of a large model, over a
/// network.
pub(super) const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         unlimited            unlimited            bytes
";
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit(text, "Max locked memory"), Some(u64::MAX));
        assert_eq!(limit(text, "Max cpu time"), None);
        assert_eq!(limit("Max open files", "Max open files"), None);
    }

    #[tokio::test]
    async fn this_host_says_what_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let about = About {
            version: "0.1.0".into(),
            devices: 2,
            device_kind: "cpu".into(),
            device_memory: 1,
            data_dir: Some(folder.path().to_owned()),
            cache_dir: folder.path().join("not/there/yet"),
            hub: ModelAccess::offline(folder.path()),
        };
        let facts = Facts::new(about).look(Some("org/none".into())).await.expect("facts");
        assert!(facts.open_files.is_some_and(|files| files > 0), "{facts:?}");
        assert_eq!(facts.disks.len(), 2);
        assert!(facts.disks.iter().all(|disk| disk.free.is_some_and(|free| free > 0)), "{facts:?}");
        let Some(ModelFound::Missing(why)) = facts.model else { panic!("{facts:?}") };
        assert!(why.contains("org/none"), "{why}");
    }
}
