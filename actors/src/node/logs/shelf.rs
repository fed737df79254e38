//! Which logs there are, by their files' names, and which go when there are too many.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use troupe_runtime::id::{Epoch, GroupId};

use super::{follow::Follow, sink::Sink};
use crate::node::core::MemberKey;

/// All logs of one host.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
}

/// One member's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Whose.
    pub key: MemberKey,
    /// How much there is of it.
    pub bytes: u64,
    /// When its member last said something.
    pub written: SystemTime,
}

/// Incarnations of a group whose logs are kept: the one that runs, and three to compare with.
const EPOCHS: usize = 4;
/// Bytes of all logs together; the oldest go first.
const MOST_BYTES: u64 = 1 << 30;

// === impl Shelf ===

impl Shelf {
    /// The logs in a node's data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("logs") }
    }

    /// All of them: by group, then the oldest incarnation first.
    ///
    /// # Errors
    /// A disk that cannot be read.
    pub async fn list(&self) -> io::Result<Vec<Log>> {
        let shelf = self.clone();
        tokio::task::spawn_blocking(move || shelf.read()).await?
    }

    /// The last `lines` lines of a log, and whoever follows it from there.
    ///
    /// # Errors
    /// `NotFound` if there is no such log; a disk that cannot be read.
    pub async fn open(&self, key: &MemberKey, lines: usize) -> io::Result<(Vec<String>, Follow)> {
        let path = self.path(key)?;
        tokio::task::spawn_blocking(move || Follow::open(path, lines)).await?
    }

    /// Begins a log, or goes on with it, and drops what is too old to be kept beside it.
    pub(in crate::node) fn begin(&self, key: &MemberKey) -> io::Result<Sink> {
        let path = self.path(key)?;
        self.drop_old(key, MOST_BYTES)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Sink::open(path)
    }

    pub(super) fn path(&self, key: &MemberKey) -> io::Result<PathBuf> {
        let MemberKey { group, epoch, member } = key;
        // Names are labels of DNS wherever they come from in order; a hand's record may hold any.
        for name in [&group.namespace, &group.service] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                let why = format!("`{name}` cannot be the name of a folder");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        }
        let folder = format!("{}-{}", group.service, group.index);
        Ok(self.root.join(&group.namespace).join(folder).join(format!("{epoch}-{member}.log")))
    }

    fn read(&self) -> io::Result<Vec<Log>> {
        let mut logs = Vec::new();
        for namespace in children(&self.root)? {
            for group in children(&namespace)? {
                for file in children(&group)? {
                    let Some(key) = key_of(&namespace, &group, &file) else { continue };
                    // One that goes while we look is not there.
                    let Ok(current) = fs::metadata(&file) else { continue };
                    let older = fs::metadata(older(&file)).map_or(0, |older| older.len());
                    let written = current.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    logs.push(Log { key, bytes: current.len() + older, written });
                }
            }
        }
        logs.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(logs)
    }

    /// Makes room for a log of `next`: its group keeps so many incarnations, the host so much.
    pub(super) fn drop_old(&self, next: &MemberKey, most_bytes: u64) -> io::Result<()> {
        let mut logs = self.read()?;
        let mut epochs: Vec<Epoch> = logs
            .iter()
            .filter(|log| log.key.group == next.group && log.key.epoch != next.epoch)
            .map(|log| log.key.epoch)
            .collect();
        epochs.dedup();
        let old = &epochs[..(epochs.len() + 1).saturating_sub(EPOCHS)];
        logs.retain(|log| {
            let goes = log.key.group == next.group && old.contains(&log.key.epoch);
            if goes {
                self.remove(&log.key);
            }
            !goes
        });
        logs.sort_by_key(|log| log.written);
        let mut bytes: u64 = logs.iter().map(|log| log.bytes).sum();
        let now = |log: &&Log| log.key.group == next.group && log.key.epoch == next.epoch;
        for log in logs.iter().filter(|log| !now(log)) {
            if bytes <= most_bytes {
                break;
            }
            bytes -= log.bytes;
            self.remove(&log.key);
        }
        Ok(())
    }

    /// What cannot be removed is tried again with the next log.
    fn remove(&self, key: &MemberKey) {
        let Ok(file) = self.path(key) else { return };
        let _ = fs::remove_file(older(&file));
        let _ = fs::remove_file(&file);
        // Only if they are empty.
        let folders = file.ancestors().skip(1).take(2);
        folders.for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Where a log's earlier part is.
pub(super) fn older(file: &Path) -> PathBuf {
    file.with_extension("log.1")
}

fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
            _ => Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
        },
    }
}

/// Whose log a file is; none if it is no log.
fn key_of(namespace: &Path, group: &Path, file: &Path) -> Option<MemberKey> {
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    let group_name = name(group)?;
    let (service, index) = group_name.rsplit_once('-')?;
    let file = name(file)?;
    let (epoch, member) = file.strip_suffix(".log")?.rsplit_once('-')?;
    let (number, nonce) = epoch.split_once('-')?;
    Some(MemberKey {
        group: GroupId {
            namespace: name(namespace)?,
            service: service.to_owned(),
            index: index.parse().ok()?,
        },
        epoch: Epoch { number: number.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()? },
        member: member.parse().ok()?,
    })
}
