//! Tells gateways which KV blocks the engine holds.
//!
//! The leader notes changes in the [`Ledger`]; one door per gateway reads from it at its own pace.
//! They share it under a lock that nobody holds for longer than it takes to cut a batch.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use troupe_runtime::{
    id::Epoch,
    transport::{FrameReceiver, FrameSender, LinkError, Stream},
    wire::cache::{
        CacheDown, CacheFollow, CacheParams, CacheSnapshot, CacheStill, CacheUp, MAX_HASHES,
    },
};

use super::ledger::{Ledger, Reading};
use crate::kv::{findable::Change, pool::BlockKey};

/// A ledger with those who read it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    /// What the ledger's times count from.
    origin: Instant,
    // A std mutex: held to append or to cut, never across an await.
    ledger: Arc<Mutex<Ledger>>,
    noted: watch::Sender<()>,
    /// What it is the ledger of, once the engine runs.
    params: watch::Sender<Option<CacheParams>>,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(epoch: Epoch, origin: Instant) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::new(epoch)));
        let (noted, params) = (watch::Sender::new(()), watch::Sender::new(None));
        Self { origin, ledger, noted, params }
    }

    /// The engine runs.
    pub(super) fn begin(&self, params: CacheParams) {
        self.params.send_replace(Some(params));
    }

    /// Blocks came and went.
    pub(super) fn note(&self, changes: Vec<Change>) {
        self.ledger().note(self.origin.elapsed(), changes);
        self.noted.send_replace(());
    }

    fn read(&self, since: Option<u64>) -> Reading {
        self.ledger().read(self.origin.elapsed(), since)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one gateway what is held, for as long as it listens.
pub(super) async fn door(cache: Cache, stream: Stream) {
    let Stream { mut sender, mut receiver } = stream;
    if let Err(error) = tell(cache, &mut sender, &mut receiver).await {
        tracing::debug!(%error, "a gateway no longer follows the cache");
    }
}

async fn tell(
    cache: Cache,
    sender: &mut FrameSender,
    receiver: &mut FrameReceiver,
) -> Result<(), LinkError> {
    let CacheUp::Follow(CacheFollow { epoch, mut since }) = receiver.expect(FIRST_FRAME).await?;
    let mut params = cache.params.subscribe();
    let Ok(Some(params)) = params.wait_for(Option::is_some).await.map(|params| params.clone())
    else {
        return Ok(());
    };
    let own = params.endpoint.epoch;
    sender.send(&CacheDown::Params(params), SEND_DEADLINE).await?;
    if epoch != own {
        return sender.finish();
    }
    let mut noted = cache.noted.subscribe();
    loop {
        // It may have missed something, and say so at any time.
        if let Some(said) = receiver.next::<CacheUp>().now_or_never() {
            let Some(CacheUp::Follow(follow)) = said? else { return sender.finish() };
            since = follow.since;
        }
        noted.borrow_and_update();
        match cache.read(since) {
            Reading::Batches(batches) => {
                for batch in batches {
                    since = Some(batch.seq);
                    sender.send(&CacheDown::Batch((*batch).clone()), SEND_DEADLINE).await?;
                }
            }
            Reading::Snapshot { seq, held } => {
                since = Some(seq);
                send_snapshot(sender, own, seq, &held).await?;
                // However often it asks.
                sleep(SNAPSHOT_INTERVAL).await;
            }
            Reading::Nothing(due) => {
                let due = due.map(|due| cache.origin + due);
                tokio::select! {
                    changed = noted.changed(), if due.is_none() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                    }
                    () = sleep_until(due.unwrap_or(cache.origin)), if due.is_some() => {}
                    said = receiver.next::<CacheUp>() => {
                        let Some(CacheUp::Follow(follow)) = said? else { return sender.finish() };
                        since = follow.since;
                    }
                    () = sleep(HEARTBEAT) => {
                        let still = CacheStill { epoch: own, seq: since.unwrap_or(0) };
                        sender.send(&CacheDown::Still(still), SEND_DEADLINE).await?;
                    }
                    () = sender.stopped() => return Ok(()),
                }
            }
        }
    }
}

async fn send_snapshot(
    sender: &mut FrameSender,
    epoch: Epoch,
    seq: u64,
    held: &[BlockKey],
) -> Result<(), LinkError> {
    let parts = held.len().div_ceil(MAX_HASHES).max(1);
    for part in 0..parts {
        let from = part * MAX_HASHES;
        let held = held[from..held.len().min(from + MAX_HASHES)].to_vec();
        let (last, part) = (part + 1 == parts, part as u32);
        let snapshot = CacheSnapshot { epoch, seq, part, last, held };
        sender.send(&CacheDown::Snapshot(snapshot), SEND_DEADLINE).await?;
    }
    Ok(())
}

/// A peer that opens a conversation says at once what it wants.
const FIRST_FRAME: Duration = Duration::from_secs(5);
/// A peer that does not take a frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Who hears nothing for so long is told that there is nothing.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A follower gets all that is held at most so often.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(50);
