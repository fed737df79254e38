//! A rank's part in transfers of KV blocks between groups.
//!
//! Everything here happens on the device thread, which alone reads and writes its KV: blocks leave
//! after each layer of a step and while the thread has nothing else to do, and what comes from
//! elsewhere is written between steps. Neither ever waits: what has no room in a line yet is sent
//! later, what has not come yet is looked for again.
//!
//! - [`export`]: which blocks may leave, and which have (pure)
//! - [`import`]: which blocks were asked for, and which are there (pure)
//! - [`desk`]: both for all transfers of a rank, between its executor and its lines

pub mod desk;
pub mod export;
pub mod import;

use bytes::Bytes;
use tokio::sync::mpsc;
use troupe_runtime::{
    id::{Coordinate, TransferId},
    spec::EngineFlags,
    transport::shm::Ring,
    wire::{
        tier::{LoadOrder, TierMove},
        transfer::{ExportOrder, ImportOrder, KvFrame},
    },
};

/// A frame with its bytes.
pub type Sealed = (KvFrame, Bytes);

/// What comes out of a line.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A frame as its sender had it.
    Frame(KvFrame, Bytes),
    /// Something came that is no frame, or not as its sender had it.
    Spoiled(String),
}

/// What a device thread is told of transfers, with its ends of the lines.
#[derive(Debug)]
pub enum RankOrder {
    /// Send, each rank its own.
    Export(Box<ExportOrder>, Vec<(Coordinate, mpsc::Sender<Sealed>)>),
    /// Take.
    Import(Box<ImportOrder>, mpsc::Receiver<Incoming>),
    /// Take from its own tiers.
    Load(Box<LoadOrder>),
    /// Keep in its own tiers.
    Move(Vec<TierMove>),
    /// Send and take nothing more.
    Close(TransferId),
}

/// Looks at what came before it is handed to a device thread.
pub fn inspect(frame: KvFrame, bytes: Bytes) -> Incoming {
    match frame.is_intact(&bytes) {
        true => Incoming::Frame(frame, bytes),
        false => Incoming::Spoiled("a frame's checksum is wrong".into()),
    }
}

/// How much memory a line shares with its other end where both are on one host; none if it is not
/// to.
pub fn ring(flags: &EngineFlags) -> Option<Ring> {
    let ring = Ring { slots: LINE_FRAMES as u32, slot_bytes: FRAME_BYTES as u32 };
    (flags.kv_transfer_shm.as_deref() != Some("off")).then_some(ring)
}

/// Most transfers that a group sends, and as many that it takes, at a time.
pub const MOST_TRANSFERS: usize = 64;
/// Frames that may wait in a line, at each of its ends: with [`FRAME_BYTES`] two megabytes, a few
/// milliseconds of a fast network.
pub const LINE_FRAMES: usize = 8;
/// About so long is a frame: long enough for its header and checksum to cost nothing.
pub const FRAME_BYTES: usize = 256 << 10;
