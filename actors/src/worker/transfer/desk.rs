//! All transfers of one rank, between its executor and its lines.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::mpsc;
use troupe_gpu::{
    backend::KvSpan,
    error::DeviceError,
    executor::{Executor, KvReader, KvTap, StepBatch},
    shape::KvAt,
};
use troupe_runtime::{
    error::chain,
    id::{Coordinate, Epoch, SequenceId, TransferId},
    wire::{
        step::StepPlan,
        transfer::{Imported, KvFrame, KvShare, TransferReport, TransferState},
    },
};

use super::{
    Incoming, RankOrder, Sealed,
    export::{Export, Piece},
    import::{Import, Wrong},
};
use crate::worker::tier::{keeper::Keeper, shelf::Shelf};

/// A rank's transfers.
#[derive(Debug)]
pub struct Desk {
    rank: Coordinate,
    epoch: Epoch,
    shares: Vec<KvShare>,
    exports: BTreeMap<TransferId, Sending>,
    imports: BTreeMap<TransferId, Taking>,
    /// What a step has found out that nobody was told yet.
    untold: Vec<TransferReport>,
    keeper: Keeper,
    /// Bytes on their way into a line, to be used again.
    bytes: Vec<u8>,
}

/// Reads blocks of one KV group.
type Read<'a> = dyn FnMut(usize, &KvSpan<'_>, &mut Vec<u8>) -> Result<(), DeviceError> + 'a;

#[derive(Debug)]
struct Sending {
    export: Export,
    lines: BTreeMap<Coordinate, mpsc::Sender<Sealed>>,
    over: bool,
}

#[derive(Debug)]
struct Taking {
    import: Import,
    line: mpsc::Receiver<Incoming>,
    bytes: u64,
    dropped: u32,
    /// How far the leader was told that it is.
    told: u32,
    over: bool,
}

impl Desk {
    /// The desk of a rank that holds `shares`, in one incarnation of its group.
    pub fn new(rank: Coordinate, epoch: Epoch, shares: Vec<KvShare>, shelf: Shelf) -> Self {
        let keeper = Keeper::new(shares.iter().map(|share| share.group).collect(), shelf);
        Self {
            rank,
            epoch,
            shares,
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            untold: Vec::new(),
            keeper,
            bytes: Vec::new(),
        }
    }

    /// Begins or ends a transfer, or keeps blocks before it returns.
    pub fn order(
        &mut self,
        order: RankOrder,
        executor: &mut dyn Executor,
    ) -> Option<TransferReport> {
        match order {
            RankOrder::Load(order) => {
                self.keeper.begin(&order);
                None
            }
            RankOrder::Move(moves) => {
                self.keeper.take(&moves, executor);
                None
            }
            RankOrder::Export(order, lines) => {
                let transfer = order.transfer;
                let export = Export::new(*order, self.rank, &self.shares);
                let lines = lines.into_iter().collect();
                self.exports.insert(transfer, Sending { export, lines, over: false });
                None
            }
            RankOrder::Import(order, line) => {
                let transfer = order.transfer;
                let told = order.first;
                let import = Import::new(*order, self.epoch, &self.shares);
                let over = import.is_complete();
                let taking = Taking { import, line, bytes: 0, dropped: 0, told, over };
                self.imports.insert(transfer, taking);
                None
            }
            RankOrder::Close(transfer) => {
                self.exports.remove(&transfer);
                self.keeper.close(transfer);
                let dropped = self.imports.remove(&transfer).map_or(0, |taking| taking.dropped);
                Some(self.report(transfer, TransferState::Closed(dropped)))
            }
        }
    }

    /// Whether there may be something to do although no command comes.
    pub fn is_busy(&self) -> bool {
        let sends =
            |sending: &Sending| !sending.over && sending.export.next(None, |_| true).is_some();
        let takes = |taking: &Taking| !taking.over || taking.told != taking.import.ready();
        self.exports.values().any(sends)
            || self.imports.values().any(takes)
            || self.keeper.is_busy()
    }

    /// Before the layers of a step run: sequences that are sent have these blocks now.
    pub fn begin(&mut self, plan: &StepPlan, batch: &StepBatch) {
        if self.exports.is_empty() {
            return;
        }
        let lost = |id: SequenceId| plan.preempted.contains(&id) || plan.finished.contains(&id);
        for Sending { export, .. } in self.exports.values_mut() {
            let id = export.sequence();
            if lost(id) {
                export.lose_blocks();
            }
            if let Some(entry) = batch.sequences.iter().find(|entry| entry.sequence == id) {
                let end = entry.computed + entry.count;
                export.begin_step(&entry.block_tables, entry.computed, end);
            }
        }
    }

    /// After the layers of a step.
    pub fn end(&mut self) {
        self.exports.values_mut().for_each(|sending| sending.export.end_step());
    }

    /// Sends what there is room for, takes what has come, a bounded part of it, and says how the
    /// transfers stand where that has changed.
    pub fn poll(&mut self, executor: &mut dyn Executor) -> Vec<TransferReport> {
        self.send_layer(None, &mut |group, span, bytes| executor.export_kv(group, span, bytes));
        let mut reports = std::mem::take(&mut self.untold);
        let rank = self.rank;
        let report = |transfer, state| TransferReport { transfer, rank, state };
        for (transfer, sending) in &mut self.exports {
            if !sending.over && sending.export.is_done() {
                sending.over = true;
                // The lines end in order once what is in them has been handed on.
                sending.lines.clear();
                reports.push(report(*transfer, TransferState::Exported));
            }
        }
        for (transfer, taking) in &mut self.imports {
            let broken = taking.take(executor);
            let (ready, bytes) = (taking.import.ready(), taking.bytes);
            if std::mem::replace(&mut taking.told, ready) != ready {
                reports.push(report(*transfer, TransferState::Imported(Imported { ready, bytes })));
            }
            if let Some(why) = broken {
                reports.push(report(*transfer, TransferState::Broken(why)));
            }
        }
        let loads = self.keeper.poll(executor);
        reports.extend(loads.into_iter().map(|(transfer, state)| report(transfer, state)));
        reports
    }

    fn send_layer(&mut self, layer: Option<(usize, usize)>, read: &mut Read<'_>) {
        let (rank, bytes) = (self.rank, &mut self.bytes);
        for (transfer, sending) in self.exports.iter_mut().filter(|(_, sending)| !sending.over) {
            if let Err(why) = sending.send(layer, bytes, read) {
                sending.over = true;
                sending.lines.clear();
                let state = TransferState::Broken(why);
                self.untold.push(TransferReport { transfer: *transfer, rank, state });
            }
        }
    }

    fn report(&self, transfer: TransferId, state: TransferState) -> TransferReport {
        TransferReport { transfer, rank: self.rank, state }
    }
}

impl KvTap for Desk {
    fn layer(&mut self, at: KvAt, kv: &mut dyn KvReader) {
        if !self.exports.is_empty() {
            let at = Some((at.group, at.layer));
            self.send_layer(at, &mut |_, span, bytes| kv.export(span, bytes));
        }
    }

    fn watches(&self) -> bool {
        !self.exports.is_empty()
    }
}

impl Sending {
    fn send(
        &mut self,
        layer: Option<(usize, usize)>,
        bytes: &mut Vec<u8>,
        read: &mut Read<'_>,
    ) -> Result<(), String> {
        let Self { export, lines, .. } = self;
        // A line that is gone has room for the send that finds it out.
        let has_room =
            |to| lines.get(&to).is_none_or(|line| line.capacity() > 0 || line.is_closed());
        while let Some(piece) = export.next(layer, has_room) {
            let Piece { group, layer, heads, blocks, .. } = &piece;
            let span = KvSpan { layer: *layer, heads: heads.clone(), blocks };
            read(*group, &span, bytes).map_err(|error| chain(&error))?;
            let bytes = Bytes::copy_from_slice(bytes);
            let frame = piece.frame.seal(&bytes);
            let sent = lines.get(&piece.to).map(|line| line.try_send((frame, bytes)).is_ok());
            if sent != Some(true) {
                return Err(format!("the line to rank {} of the other group is over", piece.to));
            }
            export.sent(&piece);
        }
        Ok(())
    }
}

impl Taking {
    /// Takes what has come; returns why the transfer cannot become complete any more.
    fn take(&mut self, executor: &mut dyn Executor) -> Option<String> {
        for _ in 0..FRAMES_AT_ONCE {
            if self.over {
                return None;
            }
            let wrong = match self.line.try_recv() {
                Ok(Incoming::Frame(frame, bytes)) => self.write(&frame, &bytes, executor).err(),
                Ok(Incoming::Spoiled(why)) => Some(Wrong::Alien(why)),
                // Whether it was all is known elsewhere: lines end, too, when they break.
                Err(_) => return None,
            };
            self.dropped += u32::from(wrong.is_some());
            if let Some(Wrong::Alien(why)) = wrong {
                self.over = true;
                return Some(why);
            }
            self.over = self.import.is_complete();
        }
        None
    }

    fn write(
        &mut self,
        frame: &KvFrame,
        bytes: &Bytes,
        executor: &mut dyn Executor,
    ) -> Result<(), Wrong> {
        let place = self.import.place(frame, bytes.len())?;
        let span = KvSpan { layer: place.layer, heads: place.heads, blocks: &place.blocks };
        executor
            .import_kv(place.group, &span, bytes)
            .map_err(|error| Wrong::Alien(chain(&error)))?;
        self.import.written(frame);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Frames of one transfer that are taken between two looks at the commands: some milliseconds of
/// copying at most, which a step may have to wait for.
const FRAMES_AT_ONCE: usize = 16;
