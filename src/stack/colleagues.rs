//! Control hosts know each other: operators' contexts name all of them, and one that is alone says
//! what that means.

use std::{collections::BTreeMap, path::PathBuf};

use troupe_runtime::{
    discovery::{
        WatchEvent,
        directory::{self, ControlRecord},
    },
    transport::{PeerAddr, tls::Identity},
};

use super::{operator, upkeep::Store};
use crate::cli::Failure;

/// Follows who is a control host for as long as it is polled.
/// `dir` is this host's own context.
pub(crate) async fn follow(store: Store, dir: PathBuf) {
    let Ok(mut watch) = store.registry.watch(&store.keys.all_control()).await else {
        // It answered a moment ago. The contexts have this host's own address.
        return tracing::warn!("other control hosts are not followed");
    };
    let mut doors: BTreeMap<String, PeerAddr> = BTreeMap::new();
    let (mut synced, mut alone) = (false, false);
    while let Some(event) = watch.next().await {
        match event {
            WatchEvent::Put(entry) => {
                match directory::from_bytes::<ControlRecord>(&entry.key, &entry.value) {
                    Ok(record) => match record.address.parse() {
                        Ok(address) => drop(doors.insert(entry.key, address)),
                        Err(why) => tracing::warn!(why, "a control host's address is none"),
                    },
                    Err(error) => tracing::warn!(%error, "a control host is left out"),
                }
            }
            WatchEvent::Delete(key) => drop(doors.remove(&key)),
            WatchEvent::Synced => synced = true,
            WatchEvent::Disconnected(_) | WatchEvent::Rewound => continue,
        }
        // While the store comes back with what it lost, fewer are not to be seen.
        if !synced || doors.is_empty() {
            continue;
        }
        let all: Vec<PeerAddr> = doors.values().cloned().collect();
        let written = Identity::load(&dir)
            .map_err(|error| Failure::of(&error))
            .and_then(|identity| operator::write(&identity, &dir, &all));
        if let Err(failure) = written {
            tracing::warn!(why = failure.message(), "the operator's context is not kept");
        }
        let now = doors.len() == 1;
        if now && !std::mem::replace(&mut alone, now) {
            tracing::warn!(
                "this is the only control host: without it nothing is planned and nobody joins. \
                 `troupe token create --kind control` lets another host become one"
            );
        }
        alone = now;
    }
}
