//! Puts a process together from its roles: what `serve`, `up`, `node` and `gateway` have in common.
//!
//! - [`identity`]: data directories, certificates, who this process is
//! - [`inventory`]: what a host says of itself: labels, memory
//! - [`colleagues`]: the other control hosts
//! - [`join`]: an identity by token, and what is known of the cluster
//! - [`listen`]: addresses, and the one door of a process
//! - [`upkeep`]: certificates are renewed, revoked identities turned away
//! - [`membership`]: its way to the store, and its lease there
//! - [`operator`]: contexts, and connections of the command line to a control host
//! - [`roles`]: starts a node, a controller, a gateway
//! - [`pod`]: what a pod of LeaderWorkerSet is told
//! - [`presence`]: a record that stands as long as a part of this process
//! - [`declare`]: writes services to the store, waits for them

pub(crate) mod colleagues;
pub(crate) mod declare;
pub(crate) mod identity;
pub(crate) mod inventory;
pub(crate) mod join;
pub(crate) mod listen;
pub(crate) mod membership;
pub(crate) mod operator;
pub(crate) mod pod;
pub(crate) mod presence;
pub(crate) mod roles;
pub(crate) mod upkeep;

use std::{ffi::OsString, path::PathBuf};

use troupe_actors::member::checkpoint::Checkpoints;
use troupe_gpu::DeviceChoice;
use troupe_runtime::model::source::ModelAccess;

/// Where things go that can be made again: `$XDG_CACHE_HOME/troupe`, else `~/.cache/troupe`.
pub(crate) fn cache_dir() -> PathBuf {
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("troupe")
}

/// Where CUDA kernels are kept that were compiled here.
pub(crate) fn kernel_cache() -> PathBuf {
    cache_dir().join("kernels")
}

/// Models as members of this process load them, on such devices.
pub(crate) fn checkpoints(device: DeviceChoice) -> Checkpoints {
    let (access, cores) = (hub(), cores());
    Checkpoints { access, cores, device, kernels: kernel_cache(), progress: None }
}

/// Processors of this machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where models named as on the hub are.
pub(crate) fn hub() -> ModelAccess {
    ModelAccess::from_variables(variable)
}

/// A variable of the environment, if it is set to text.
pub(crate) fn text_variable(name: &str) -> Option<String> {
    variable(name)?.into_string().ok()
}

#[expect(clippy::disallowed_methods, reason = "the edge: nothing below reads the environment")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns when the process is asked to end: SIGTERM, or Ctrl-C.
pub(crate) async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
