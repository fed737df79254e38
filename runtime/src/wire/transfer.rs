//! KV blocks from a group that prefills to one that decodes, or from any group to another.
//!
//! ```text
//! decode leader                      prefill leader
//!   Start(tokens, wants, ranks)  -->                   who wants which blocks, and where
//!                                <--  Sent              all of it is on its way
//!                                <--  Refused / Failed  compute it yourself
//!   (end of the conversation)    -->                   nothing is wanted any more
//!
//! a prefill rank                     a decode rank
//!   Kv(KvOpen), then KvFrames    -->                   one stream for each pair and transfer
//! ```
//! Both sides may be divided differently. So what travels is addressed as the whole model has it:
//! KV group, layer within the group, key and value heads, and the block's place in the sequence.
//! Block *ids* never travel. A decode rank knows from its own leader which blocks a transfer may
//! write ([`ImportOrder`]), and takes nothing for one that is not open: the transfer's id, which
//! nobody else can guess, stands for that one use of those blocks.
//!
//! Leaders tell their ranks with [`TransferOrder`]s, in the same stream as the plans, so that what
//! was closed is closed before its blocks are used for anything else.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    Message,
    adapter::AdapterRef,
    bounded,
    generate::MAX_TOKENS,
    group::MAX_RANKS,
    kv::WireDtype,
    tier::{self, LoadOrder, TierMove},
};
use crate::{
    error::PublicError,
    id::{BlockId, Coordinate, Digest, EndpointId, Epoch, RequestId, SequenceId, TransferId},
};

/// A run of consecutive layers, heads or blocks.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub struct Run {
    /// The first.
    pub first: u32,
    /// One past the last.
    pub end: u32,
}

/// What one entry of a layer's KV is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvForm {
    /// A key and a value of so many elements for each head.
    Heads(u32),
    /// One compressed row of so many elements: one head, as far as addresses go.
    Latent(u32),
}

/// What one rank holds of one KV group.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShare {
    /// The group.
    pub group: u32,
    /// Layers of the group, counted over the whole model.
    pub layers: Run,
    /// Key and value heads of the model.
    pub heads: Run,
    /// What one position of one head is.
    pub form: KvForm,
    /// How elements are stored. Behind each key and value of signed bytes stands its scale, an
    /// `f32`.
    pub dtype: WireDtype,
    /// Positions per block.
    pub block_size: u32,
}

/// A rank, where it is reached and what it holds.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RankPlace {
    /// Which.
    pub rank: Coordinate,
    /// Its member's address.
    pub address: String,
    /// One for each KV group that has layers there.
    pub shares: Vec<KvShare>,
}

/// Decode leader to prefill leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum PrefillUp {
    /// Opens the conversation; exactly once, first.
    Start(Box<Prefill>),
}

/// Prefill leader to decode leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum PrefillDown {
    /// Nothing was begun, and nothing will come.
    Refused(PublicError),
    /// Every block is on its way.
    Sent,
    /// It cannot go on; what has arrived is good.
    Failed(String),
}

/// Compute these tokens, or find them in the cache, and send their KV.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Names this use of the blocks that are to be filled.
    pub transfer: TransferId,
    /// For whom.
    pub request: RequestId,
    /// Whom it is asked of; a leader of another epoch refuses it.
    pub endpoint: EndpointId,
    /// The asking group's incarnation: every frame carries it.
    pub epoch: Epoch,
    /// For so long it is of use, in milliseconds.
    pub time_left_ms: u64,
    /// Lower runs sooner.
    pub priority: i32,
    /// It is wanted only if it is cached: nothing is to be computed for it.
    pub cached_only: bool,
    /// Tokens of full blocks only.
    pub tokens: Vec<u32>,
    /// The model that is asked for.
    pub model: Digest,
    /// LoRA adapter.
    pub adapter: Option<AdapterRef>,
    /// Separates cached blocks of this request from those of others.
    pub cache_salt: Option<String>,
    /// W3C trace context of the request's span.
    pub traceparent: Option<String>,
    /// Blocks that are wanted of each KV group, by their place in the sequence.
    pub wants: Vec<Run>,
    /// Who is to get them.
    pub ranks: Vec<RankPlace>,
}

/// Opens a stream of KV blocks from one rank to another.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvOpen {
    /// The receiving group's incarnation.
    pub epoch: Epoch,
    /// Of which transfer.
    pub transfer: TransferId,
    /// Who sends, in its own group.
    pub from: Coordinate,
    /// Who receives, in its own group.
    pub to: Coordinate,
}

/// Goes before the bytes of some blocks of some heads of one layer, in the layout
/// `[block][key, value][head][position][dim]`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvFrame {
    /// The receiving group's incarnation.
    pub epoch: Epoch,
    /// For whom the blocks are.
    pub request: RequestId,
    /// Of which transfer.
    pub transfer: TransferId,
    /// KV group.
    pub group: u32,
    /// Layer within the group, over the whole model.
    pub layer: u32,
    /// Heads of the model.
    pub heads: Run,
    /// Places in the sequence's block table.
    pub blocks: Run,
    /// Over all of the above and the bytes: see [`KvFrame::seal`].
    pub checksum: u128,
}

/// Leader to its members: part of a transfer for each rank.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TransferOrder {
    /// Send blocks of a sequence as they are computed.
    Export(Box<ExportOrder>),
    /// Take blocks from elsewhere.
    Import(Box<ImportOrder>),
    /// Take blocks from beside the device.
    Load(Box<LoadOrder>),
    /// Keep blocks beside the device, in this order.
    Move(Vec<TierMove>),
    /// Send nothing more, take nothing more.
    Close(TransferId),
}

/// Which rank sends what to whom.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExportOrder {
    /// The transfer.
    pub transfer: TransferId,
    /// For whom it is.
    pub request: RequestId,
    /// The receiving group's incarnation.
    pub epoch: Epoch,
    /// The sequence that is computed for it.
    pub sequence: SequenceId,
    /// Blocks that are wanted of each KV group.
    pub wants: Vec<Run>,
    /// Where they go.
    pub routes: Vec<KvRoute>,
    /// Where they are kept, per KV group, if all of them are computed: then no step is waited for.
    pub complete: Option<Vec<Vec<BlockId>>>,
}

/// What one rank sends to another.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KvRoute {
    /// Who sends.
    pub from: Coordinate,
    /// Who receives, in the other group.
    pub to: Coordinate,
    /// Where that one is reached.
    pub address: String,
    /// KV group.
    pub group: u32,
    /// Layers of the group.
    pub layers: Run,
    /// Heads of the model.
    pub heads: Run,
}

/// Which blocks a transfer may write, until it is closed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ImportOrder {
    /// The transfer.
    pub transfer: TransferId,
    /// For whom it is.
    pub request: RequestId,
    /// Blocks that the sequence has already.
    pub first: u32,
    /// Blocks that are wanted of each KV group, by their place in the sequence.
    pub wants: Vec<Run>,
    /// Where each of those is kept, per KV group.
    pub blocks: Vec<Vec<BlockId>>,
}

/// A rank's word about a transfer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TransferReport {
    /// The transfer.
    pub transfer: TransferId,
    /// Which rank.
    pub rank: Coordinate,
    /// What there is to say.
    pub state: TransferState,
}

/// How a rank stands with a transfer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TransferState {
    /// So much is here.
    Imported(Imported),
    /// All that it is to send has left its memory.
    Exported,
    /// It cannot go on.
    Broken(String),
    /// It sends and takes nothing more. So many frames were not taken: wrong or sent twice.
    Closed(u32),
}

/// How much of a transfer a rank has taken.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Every block before this place is complete here.
    pub ready: u32,
    /// Bytes taken so far.
    pub bytes: u64,
}

// === impl Run ===

impl Run {
    /// From `first` to before `end`.
    pub const fn new(first: u32, end: u32) -> Self {
        Self { first, end }
    }

    /// How many there are.
    pub const fn len(self) -> u32 {
        self.end.saturating_sub(self.first)
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.end <= self.first
    }

    /// What both have.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), end: self.end.min(other.end) }
    }

    /// Whether all of `other` is in it.
    pub const fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.end <= self.end
    }
}

// === impl KvShare ===

impl KvShare {
    /// Bytes of one block of one head of one layer; `None` for sizes that cannot be.
    pub fn piece_bytes(&self) -> Option<usize> {
        let (rows, elements) = match self.form {
            KvForm::Heads(dim) => (2, dim),
            KvForm::Latent(width) => (1, width),
        };
        // Signed bytes mean nothing without the scale that stands behind each row of them.
        let scale = if self.dtype == WireDtype::I8 { size_of::<f32>() } else { 0 };
        (elements as usize)
            .checked_mul(self.dtype.size())
            .filter(|bytes| *bytes > 0)?
            .checked_add(scale)?
            .checked_mul(rows)?
            .checked_mul(self.block_size as usize)
            .filter(|bytes| *bytes > 0)
    }
}

// === impl KvFrame ===

impl KvFrame {
    /// The same frame with the checksum that it must have before these bytes.
    #[must_use]
    pub fn seal(self, bytes: &[u8]) -> Self {
        Self { checksum: self.sum(bytes), ..self }
    }

    /// Whether header and bytes are as their sender had them.
    pub fn is_intact(&self, bytes: &[u8]) -> bool {
        self.checksum == self.sum(bytes)
    }

    /// 128 bits of BLAKE3 over the header and 128 bits of XXH3 of the bytes: what a network or a
    /// driver does to them shows, and so does a header that belongs to other bytes. Whoever might
    /// want to deceive is kept out by TLS, so the many bytes need no cryptography: BLAKE3 of them
    /// took a third of the time that sending them takes.
    fn sum(&self, bytes: &[u8]) -> u128 {
        let mut hasher = blake3::Hasher::new();
        for number in [
            u128::from(self.epoch.number),
            u128::from(self.epoch.nonce),
            self.request.0.as_u128(),
            self.transfer.0,
            u128::from(self.group) << 32 | u128::from(self.layer),
            u128::from(self.heads.first) << 32 | u128::from(self.heads.end),
            u128::from(self.blocks.first) << 32 | u128::from(self.blocks.end),
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&twox_hash::XxHash3_128::oneshot(bytes).to_le_bytes());
        let mut sum = [0; 16];
        hasher.finalize_xof().fill(&mut sum);
        u128::from_le_bytes(sum)
    }
}

// === impl Message ===

impl Message for PrefillUp {
    const NAME: &'static str = "PrefillUp";

    fn check(&self) -> Result<(), String> {
        let Self::Start(prefill) = self;
        bounded("tokens", &prefill.tokens, MAX_TOKENS)?;
        bounded("wants", &prefill.wants, MAX_GROUPS)?;
        bounded("ranks", &prefill.ranks, MAX_RANKS)?;
        if prefill.tokens.is_empty() {
            return Err("tokens is empty, those of one block at least are needed".into());
        }
        for rank in &prefill.ranks {
            bounded("shares", &rank.shares, MAX_GROUPS)?;
        }
        Ok(())
    }
}

impl Message for PrefillDown {
    const NAME: &'static str = "PrefillDown";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for KvFrame {
    const NAME: &'static str = "KvFrame";

    fn check(&self) -> Result<(), String> {
        if self.heads.is_empty() || self.blocks.is_empty() {
            return Err(format!("a frame of heads {:?}, blocks {:?}", self.heads, self.blocks));
        }
        Ok(())
    }
}

impl TransferOrder {
    /// Refuses impossible lengths.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Export(order) => {
                bounded("wants", &order.wants, MAX_GROUPS)?;
                bounded("routes", &order.routes, MAX_ROUTES)?;
                let tables = order.complete.as_deref().unwrap_or_default();
                bounded("complete", tables, MAX_GROUPS)?;
                tables.iter().try_for_each(|blocks| bounded("complete", blocks, MAX_TOKENS))
            }
            Self::Import(order) => {
                bounded("wants", &order.wants, MAX_GROUPS)?;
                bounded("blocks", &order.blocks, MAX_GROUPS)?;
                order.blocks.iter().try_for_each(|blocks| bounded("blocks", blocks, MAX_TOKENS))
            }
            Self::Load(order) => order.check(),
            Self::Move(moves) => tier::check_moves(moves),
            Self::Close(_) => Ok(()),
        }
    }
}

/// Most KV groups of a model.
pub(super) const MAX_GROUPS: usize = 256;
/// Most routes of one transfer: each rank of one side to each of the other, for some groups.
const MAX_ROUTES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_of_header_and_bytes() {
        let frame = KvFrame {
            epoch: Epoch { number: 1, nonce: 2 },
            request: RequestId::default(),
            transfer: TransferId(9),
            group: 0,
            layer: 3,
            heads: Run::new(0, 2),
            blocks: Run::new(4, 6),
            checksum: 0,
        }
        .seal(b"bytes");
        assert!(frame.is_intact(b"bytes"));
        assert!(!frame.is_intact(b"bytez"));
        assert!(!KvFrame { layer: 4, ..frame }.is_intact(b"bytes"));
        assert!(!KvFrame { transfer: TransferId(8), ..frame }.is_intact(b"bytes"));
        assert!(!KvFrame { blocks: Run::new(4, 7), ..frame }.is_intact(b"bytes"));
    }

    #[test]
    fn runs_meet_where_both_are() {
        assert_eq!(Run::new(0, 4).meet(Run::new(2, 9)), Run::new(2, 4));
        assert!(Run::new(0, 2).meet(Run::new(2, 4)).is_empty());
        assert!(Run::new(0, 4).holds(Run::new(1, 4)) && !Run::new(1, 4).holds(Run::new(0, 4)));
    }
}
