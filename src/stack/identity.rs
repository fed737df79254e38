//! Who this process is: its data directory, its certificate, its name.
//!
//! A data directory belongs to one process at a time (a lock says so) and to one identity for ever:
//! whatever roles a host has, its certificates have one id. The cluster's CA lies in `ca/` of a
//! control host's directory; whoever may read its key may mint identities. Every other host joins
//! by token ([`super::join`]), which needs no key.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
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

use super::variable;
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

    /// The directory that was named, or the one that a process of this user has by itself.
    pub(crate) fn take_or_default(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            Some(path) => Self::take(path),
            None => Self::take(&usual()?),
        }
    }

    /// Where a control host has the cluster's CA.
    pub(crate) fn authority_dir(&self) -> PathBuf {
        self.path.join("ca")
    }

    /// Whether it is a control host's.
    pub(crate) fn has_authority(&self) -> bool {
        self.authority_dir().join("ca-key.pem").exists()
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's CA, made here if it is not there.
    pub(crate) fn authority(&self, cluster: &str) -> Result<ClusterAuthority, Failure> {
        let dir = self.authority_dir();
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
        let node = match known {
            Some(known) => known.name().node,
            None => self.id().unwrap_or_else(|| NodeId(Uuid::now_v7())),
        };
        fs::create_dir_all(&dir).map_err(|error| Failure::usage(error.to_string()))?;
        let identity = authority.issue(role, node).map_err(|error| Failure::of(&error))?;
        identity.save(&dir).map_err(|error| Failure::of(&error))?;
        Ok((identity, dir))
    }

    /// The id that this directory's identities have.
    fn id(&self) -> Option<NodeId> {
        let roles = [PeerRole::Control, PeerRole::Node, PeerRole::Gateway, PeerRole::Operator];
        let mut known = roles.into_iter().filter_map(|role| {
            let identity = Identity::load(&self.path.join(role.to_string())).ok()?;
            Some(identity.name().node)
        });
        known.next()
    }
}

/// Where a process keeps what it must not forget, unless told otherwise: `/var/lib/troupe` for
/// root, else `$XDG_STATE_HOME/troupe` or `~/.local/state/troupe`.
fn usual() -> Result<PathBuf, Failure> {
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        return Ok(PathBuf::from("/var/lib/troupe"));
    }
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let state =
        state.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    let state = state.ok_or_else(|| {
        Failure::usage("--data-dir DIR is needed where HOME is not set: identities are kept there")
    })?;
    Ok(state.join("troupe"))
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
