//! The copies on this machine: the hub's cache as the hub's own tools lay it out, and the same for
//! everything else.
//!
//! The hub's cache holds `models--org--name/blobs/<id>`, `snapshots/<commit>/<files>` that point
//! there, and per branch or tag `refs/<revision>` with the commit's id. Other copies have no blobs:
//! a snapshot, named by what its source said of the files, holds the files themselves.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::fs::statvfs;

use super::{
    access::ModelAccess,
    failure::Failure,
    origin::{Listing, RemoteFile},
    web::tag_of,
};
use crate::model::{error::ModelError, json, source::Place};

/// The folder of the copy of a model.
///
/// # Errors
/// [`ModelError::Away`], saying where it was looked for.
pub(crate) fn find(
    model: &str,
    place: &Place,
    access: &ModelAccess,
) -> Result<PathBuf, ModelError> {
    let store = Store::new(place, access);
    let revision = store.revision.as_deref().unwrap_or(CURRENT);
    let commit = read_ref(&store.folder.join("refs").join(revision));
    let folder = store.folder.join("snapshots").join(commit.as_deref().unwrap_or(revision));
    if folder.is_dir() {
        return Ok(folder);
    }
    let why_not = match access.network {
        Some(_) => "it comes when a member or a gateway needs it",
        None => {
            "and nothing is downloaded here (HF_HUB_OFFLINE): fetch it where there is a network, \
             or name a folder that holds the model"
        }
    };
    Err(ModelError::Away(format!(
        "{model} is not on this machine: {} is not there; {why_not}",
        folder.display()
    )))
}

/// The commit that a branch or tag points to, if it is known here and well-formed.
fn read_ref(file: &Path) -> Option<String> {
    const COMMIT_CHARACTERS: u64 = 64;
    let bytes = json::read_bounded(file, COMMIT_CHARACTERS).ok()?;
    let commit = String::from_utf8(bytes).ok()?.trim().to_owned();
    let is_commit = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
    is_commit.then_some(commit)
}

/// The folder of one model in the cache.
pub(super) struct Store {
    folder: PathBuf,
    /// As the hub's own tools lay it out: content by its name, snapshots that point to it.
    revision: Option<String>,
    locks: PathBuf,
}

impl Store {
    pub(super) fn new(place: &Place, access: &ModelAccess) -> Self {
        match place {
            Place::Hub { name, revision } => {
                let name = format!("models--{}", name.replace('/', "--"));
                Self {
                    locks: access.hub_cache.join(".locks").join(&name),
                    folder: access.hub_cache.join(name),
                    revision: Some(revision.clone()),
                }
            }
            other => {
                let folder = access.other_cache.join(other_name(other));
                Self { locks: folder.join(".locks"), folder, revision: None }
            }
        }
    }

    pub(super) fn lock(&self, file: &RemoteFile) -> PathBuf {
        self.locks.join(format!("{}.lock", file.tag))
    }

    /// Where a file's content is, and what points to it.
    pub(super) fn places(
        &self,
        listing: &Listing,
        file: &RemoteFile,
    ) -> (PathBuf, Option<PathBuf>) {
        let snapshot = self.snapshot(listing).join(&file.path);
        match self.revision {
            Some(_) => (self.folder.join("blobs").join(&file.tag), Some(snapshot)),
            None => (snapshot, None),
        }
    }

    fn snapshot(&self, listing: &Listing) -> PathBuf {
        self.folder.join("snapshots").join(&listing.version)
    }

    pub(super) fn prepare(&self, listing: &Listing) -> Result<(), Failure> {
        let folder = self.snapshot(listing);
        fs::create_dir_all(&folder).map_err(Failure::disk(folder))
    }

    /// Refuses at the beginning what the disk has no room for.
    pub(super) fn room(&self, file: &RemoteFile) -> Result<(), Failure> {
        let Ok(disk) = statvfs(&self.folder) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match file.size <= free {
            true => Ok(()),
            false => Err(Failure::Full { folder: self.folder.clone(), needed: file.size, free }),
        }
    }

    /// Says which state the revision is in, and gives its folder.
    pub(super) fn name(&self, listing: &Listing) -> Result<PathBuf, Failure> {
        let revision = self.revision.as_deref().unwrap_or(CURRENT);
        if revision != listing.version {
            let file = self.folder.join("refs").join(revision);
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).map_err(Failure::disk(folder))?;
            }
            // Renamed, so that nobody reads half a name.
            let new = file.with_extension("new");
            fs::write(&new, &listing.version).map_err(Failure::disk(&new))?;
            fs::rename(&new, &file).map_err(Failure::disk(&file))?;
        }
        Ok(self.snapshot(listing))
    }
}

/// The folder of a model that is not the hub's, readable and without two that are one.
fn other_name(place: &Place) -> String {
    let (scheme, rest) = match place {
        Place::Bucket { scheme, rest } => (*scheme, rest.as_str()),
        Place::Web { url } => {
            url.split_once("://").map_or(("http", url.as_str()), |(scheme, rest)| {
                (if scheme == "https" { "https" } else { "http" }, rest)
            })
        }
        Place::Hub { name, .. } => ("hf", name.as_str()),
        Place::Folder(_) => ("file", ""),
    };
    let rest = rest.trim_end_matches('/');
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = rest.chars().map(safe).take(100).collect();
    format!("{scheme}--{name}--{}", &tag_of(&[scheme, rest])[..12])
}

/// Makes `link` lead to `blob`, by a path that stays right when the cache is moved.
pub(super) fn point(link: &Path, blob: &Path) -> Result<(), Failure> {
    let Some(folder) = link.parent() else { return Ok(()) };
    fs::create_dir_all(folder).map_err(Failure::disk(folder))?;
    let shared = link.components().zip(blob.components()).take_while(|(a, b)| a == b).count();
    let up = link.components().count() - shared - 1;
    let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
    target.extend(blob.components().skip(shared));
    match symlink(&target, link) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let is_it = fs::read_link(link).is_ok_and(|known| known == target);
            if !is_it {
                fs::remove_file(link).map_err(Failure::disk(link))?;
                symlink(&target, link).map_err(Failure::disk(link))?;
            }
            Ok(())
        }
        made => made.map_err(Failure::disk(link)),
    }
}

/// The revision of what has none.
const CURRENT: &str = "current";
