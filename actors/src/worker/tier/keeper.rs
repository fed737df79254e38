//! The tiers of one rank, and what is on its way from there to the device.

use std::collections::{BTreeMap, BTreeSet};

use troupe_gpu::executor::Executor;
use troupe_runtime::{
    error::chain,
    id::TransferId,
    wire::{
        tier::{LoadOrder, TierMove},
        transfer::{Imported, TransferState},
    },
};

use super::{
    load::{Load, Piece},
    shelf::{Found, Shelf},
};

/// One rank's.
#[derive(Debug)]
pub struct Keeper {
    /// KV groups of which it holds something.
    groups: Vec<u32>,
    shelf: Shelf,
    loads: BTreeMap<TransferId, Loading>,
}

#[derive(Debug)]
struct Loading {
    load: Load,
    /// What has been read from the disk, by the number of its piece.
    read: BTreeMap<u64, Result<Vec<u8>, String>>,
    /// Pieces that are being read.
    reading: BTreeSet<u64>,
    /// Number of the first missing piece.
    next: u64,
    bytes: u64,
    /// How far the leader was told that it is.
    told: u32,
    over: bool,
}

impl Keeper {
    /// The keeper of a rank that holds something of these KV groups.
    pub fn new(groups: Vec<u32>, shelf: Shelf) -> Self {
        Self { groups, shelf, loads: BTreeMap::new() }
    }

    /// Moves blocks one tier further, in this order.
    pub fn take(&mut self, moves: &[TierMove], executor: &mut dyn Executor) {
        let own = moves.iter().filter(|step| self.groups.contains(&step.group));
        own.for_each(|step| self.shelf.take(step, executor));
    }

    /// Begins to bring blocks back.
    pub fn begin(&mut self, order: &LoadOrder) {
        let load = Load::new(order, &self.groups);
        let loading = Loading {
            load,
            read: BTreeMap::new(),
            reading: BTreeSet::new(),
            next: 0,
            bytes: 0,
            told: order.first,
            over: false,
        };
        self.loads.insert(order.transfer, loading);
    }

    /// Writes nothing more for it.
    pub fn close(&mut self, transfer: TransferId) {
        self.loads.remove(&transfer);
    }

    /// Whether there may be something to do although no command comes.
    pub fn is_busy(&self) -> bool {
        self.loads.values().any(|loading| !loading.over)
    }

    /// Brings a bounded part of what is wanted to the device, and says how loads stand where that
    /// has changed.
    pub fn poll(&mut self, executor: &mut dyn Executor) -> Vec<(TransferId, TransferState)> {
        for ((transfer, piece), read) in self.shelf.read_so_far() {
            let Some(loading) = self.loads.get_mut(&TransferId(transfer)) else { continue };
            loading.reading.remove(&piece);
            loading.read.insert(piece, read);
        }
        let mut states = Vec::new();
        let mut left = BYTES_AT_ONCE;
        for (transfer, loading) in self.loads.iter_mut().filter(|(_, loading)| !loading.over) {
            let broken = loading.go_on(*transfer, &mut self.shelf, executor, &mut left).err();
            let (ready, bytes) = (loading.load.ready(), loading.bytes);
            if std::mem::replace(&mut loading.told, ready) != ready {
                states.push((*transfer, TransferState::Imported(Imported { ready, bytes })));
            }
            loading.over = broken.is_some() || loading.load.is_complete();
            states.extend(broken.map(|why| (*transfer, TransferState::Broken(why))));
        }
        states
    }
}

impl Loading {
    /// Brings what is there, up to `left` bytes.
    ///
    /// # Errors
    /// Why the rest does not come.
    fn go_on(
        &mut self,
        transfer: TransferId,
        shelf: &mut Shelf,
        executor: &mut dyn Executor,
        left: &mut usize,
    ) -> Result<(), String> {
        while *left > 0
            && let Some(&piece) = self.load.missing().first()
        {
            let bytes = match (shelf.find(piece.group, piece.place), self.read.get(&self.next)) {
                (Found::Here(bytes), _) => bytes,
                (Found::OnDisk, Some(Ok(bytes))) => bytes,
                (Found::OnDisk, Some(Err(why))) => return Err(format!("{}: {why}", named(&piece))),
                (Found::OnDisk, None) => break,
                (Found::Nothing, _) => return Err(format!("{} is not there", named(&piece))),
            };
            let size = bytes.len();
            executor
                .restore_block(piece.group as usize, piece.block, bytes)
                .map_err(|error| format!("{}: {}", named(&piece), chain(&error)))?;
            *left = left.saturating_sub(size);
            self.bytes += size as u64;
            self.load.written();
            self.read.remove(&self.next);
            self.next += 1;
        }
        self.read_ahead(transfer, shelf);
        Ok(())
    }

    /// Has the disk read the next pieces that are there.
    fn read_ahead(&mut self, transfer: TransferId, shelf: &mut Shelf) {
        let ahead = (self.next..).zip(self.load.missing().iter().take(READ_AHEAD));
        for (number, piece) in ahead {
            let on_disk = shelf.find(piece.group, piece.place) == Found::OnDisk;
            if !on_disk || self.reading.contains(&number) || self.read.contains_key(&number) {
                continue;
            }
            if !shelf.read(piece.group, piece.place, (transfer.0, number)) {
                return;
            }
            self.reading.insert(number);
        }
    }
}

fn named(piece: &Piece) -> String {
    let Piece { at, group, place, .. } = piece;
    format!("block {at} of KV group {group}, in slot {} of {:?}", place.slot, place.tier)
}

/// Bytes that are brought between two looks at the commands: some milliseconds of copying at most,
/// which a step may have to wait for.
const BYTES_AT_ONCE: usize = 32 << 20;
/// Pieces that the disk reads before they are needed.
const READ_AHEAD: usize = 16;
