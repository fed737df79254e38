//! Who this process is: its data directory, its certificate, its name.
//!
//! A data directory belongs to one process at a time (a lock says so) and to one identity for ever.
//! The cluster's CA lies in `ca/` of a control host's directory; whoever may read its key may mint
//! identities. Joining by token, which needs no key, comes later.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::SystemTime,
};

use troupe_runtime::{
    id::NodeId,
    transport::{
        PeerRole,
        tls::{ClusterAuthority, Identity},
    },
};
use uuid::Uuid;

use crate::cli::Failure;

/// A data directory that is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Takes a directory, making it if it is not there.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::usage(format!("cannot use the data directory {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::usage(format!(
                "the data directory {} is used by another process; give each its own --data-dir",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's CA, made here if it is not there.
    pub(crate) fn authority(&self, cluster: &str) -> Result<ClusterAuthority, Failure> {
        let dir = self.path.join("ca");
        if dir.join("ca.pem").exists() {
            let authority = ClusterAuthority::load(&dir).map_err(|error| Failure::of(&error))?;
            if authority.cluster() != cluster {
                return Err(Failure::usage(format!(
                    "{} is the CA of cluster {}, not {cluster}",
                    dir.display(),
                    authority.cluster()
                )));
            }
            return Ok(authority);
        }
        fs::create_dir_all(&dir).map_err(|error| Failure::usage(error.to_string()))?;
        let authority = ClusterAuthority::create(cluster).map_err(|error| Failure::of(&error))?;
        authority.save(&dir).map_err(|error| Failure::of(&error))?;
        Ok(authority)
    }

    /// This process's identity in a role, minted if there is none yet or it is due for renewal. The
    /// id in it stays the same for as long as the directory does.
    pub(crate) fn identity(
        &self,
        role: PeerRole,
        authority: &ClusterAuthority,
    ) -> Result<(Identity, PathBuf), Failure> {
        let dir = self.path.join(role.to_string());
        let known = match dir.join("identity.pem").exists() {
            true => Some(Identity::load(&dir).map_err(|error| Failure::of(&error))?),
            false => None,
        };
        if let Some(identity) = &known {
            if identity.ca_digest() != authority.digest() {
                return Err(Failure::usage(format!(
                    "{} holds an identity of another cluster's CA; give this process a new \
                     --data-dir, or the CA that it belongs to",
                    dir.display()
                )));
            }
            if SystemTime::now() < identity.renew_at() {
                let identity = Identity::load(&dir).map_err(|error| Failure::of(&error))?;
                return Ok((identity, dir));
            }
        }
        let node = known.map_or_else(|| NodeId(Uuid::now_v7()), |known| known.name().node);
        fs::create_dir_all(&dir).map_err(|error| Failure::usage(error.to_string()))?;
        let identity = authority.issue(role, node).map_err(|error| Failure::of(&error))?;
        identity.save(&dir).map_err(|error| Failure::of(&error))?;
        Ok((identity, dir))
    }
}

/// The CA of a directory that another process made.
pub(crate) fn authority_at(dir: &Path, cluster: &str) -> Result<ClusterAuthority, Failure> {
    let authority = ClusterAuthority::load(dir).map_err(|error| Failure::of(&error))?;
    if authority.cluster() == cluster {
        return Ok(authority);
    }
    Err(Failure::usage(format!(
        "{} is the CA of cluster {}; join it with --cluster {}",
        dir.display(),
        authority.cluster(),
        authority.cluster()
    )))
}

/// The host's name as the kernel has it.
pub(crate) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "host".to_owned())
}
