//! Transfers of KV blocks that an engine has under way, to and from other groups.
//!
//! What both sides share: who the ranks are, how many transfers there may be, and that one which is
//! over counts until every rank has said that it does nothing more for it. [`super::fetch`] is the
//! side that wants blocks, [`super::prefill`] the one that computes them.

use std::collections::{BTreeMap, BTreeSet};

use troupe_runtime::{
    id::{Coordinate, Digest, SequenceId, TransferId},
    wire::{
        group::{Formation, RankReport},
        transfer::{
            KvShare, Prefill, PrefillDown, RankPlace, TransferOrder, TransferReport, TransferState,
        },
    },
};

use super::{
    engine::{EngineEffect, Observation},
    fetch::Fetch,
    prefill::Prefilling,
};
use crate::worker::transfer::MOST_TRANSFERS;

/// What can happen to transfers.
#[derive(Clone, Debug)]
pub enum TransferEvent {
    /// One of the engine's own ranks says how it stands.
    Report(TransferReport),
    /// The other group's leader answers.
    Answered(TransferId, PrefillDown),
    /// The conversation with it is over.
    Lost(TransferId, String),
    /// Another group's leader asks.
    Asked(Box<Prefill>),
    /// The conversation in which it asked is over.
    Gone(TransferId),
}

/// What is to be done for transfers.
#[derive(Clone, Debug, PartialEq)]
pub enum TransferEffect {
    /// Tell every rank of this group.
    Order(TransferOrder),
    /// Ask the leader at this address.
    Ask(String, Box<Prefill>),
    /// End the conversation with it.
    Leave(TransferId),
    /// Tell the leader that asked.
    Answer(TransferId, PrefillDown),
    /// Nothing more follows for it.
    Hang(TransferId),
}

/// What an engine has to know to take part in transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferSetup {
    /// Drawn at the start: makes the ids of transfers that nobody can guess.
    pub secret: [u8; 32],
    /// Its ranks.
    pub ranks: Vec<RankPlace>,
    /// Bytes of one block of every KV group at all ranks together.
    pub block_bytes: u64,
}

/// Both sides' state.
#[derive(Clone, Debug, Default)]
pub(super) struct Transfers {
    pub(super) setup: Option<TransferSetup>,
    counted: u64,
    pub(super) fetches: BTreeMap<TransferId, Fetch>,
    pub(super) prefills: BTreeMap<TransferId, Prefilling>,
    /// Sequences that wait for room, for what tiers have of them.
    pub(super) wanting: BTreeSet<SequenceId>,
    /// Over, and these ranks have not said so yet.
    closing: BTreeMap<TransferId, BTreeSet<Coordinate>>,
}

impl From<TransferEffect> for EngineEffect {
    fn from(effect: TransferEffect) -> Self {
        Self::Transfer(effect)
    }
}

// === impl TransferSetup ===

impl TransferSetup {
    /// The ranks of a formed group as they reported themselves.
    pub fn new(secret: [u8; 32], formation: &Formation, reports: &[RankReport]) -> Self {
        let members = formation.members.iter();
        let places = members.flat_map(|member| member.ranks.iter().map(move |rank| (rank, member)));
        let mut ranks: Vec<_> = places
            .filter_map(|(rank, member)| {
                let report = reports.iter().find(|report| report.rank == *rank)?;
                let (address, shares) = (member.address.clone(), report.kv.clone());
                Some(RankPlace { rank: *rank, address, shares })
            })
            .collect();
        ranks.sort_by_key(|place| place.rank);
        let block_bytes = reports.iter().flat_map(|report| &report.block_bytes).sum();
        Self { secret, ranks, block_bytes }
    }

    /// What each rank holds.
    pub(super) fn shares(&self) -> Vec<(Coordinate, Vec<KvShare>)> {
        self.ranks.iter().map(|place| (place.rank, place.shares.clone())).collect()
    }
}

// === impl Transfers ===

impl Transfers {
    /// A new transfer's id.
    pub(super) fn mint(&mut self, setup: &TransferSetup) -> TransferId {
        self.counted += 1;
        let mut named = setup.secret.to_vec();
        named.extend(self.counted.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(&named).0[..16]);
        TransferId(u128::from_le_bytes(id))
    }

    /// Whether there may be one more that takes.
    pub(super) fn may_fetch(&self) -> bool {
        self.fetches.len() + self.closing.len() < MOST_TRANSFERS
    }

    /// Whether there may be one more that sends.
    pub(super) fn may_prefill(&self) -> bool {
        self.prefills.len() + self.closing.len() < MOST_TRANSFERS
    }

    /// The transfer that fills a sequence's blocks.
    pub(super) fn of(&self, id: SequenceId) -> Option<TransferId> {
        self.fetches.iter().find(|(_, fetch)| fetch.sequence == id).map(|(transfer, _)| *transfer)
    }

    /// Sequences that are computed for others.
    pub(super) fn sequences(&self) -> usize {
        self.prefills.values().filter(|prefill| prefill.sequence.is_some()).count()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.fetches.is_empty() && self.prefills.is_empty()
    }

    /// Has every rank stop: before whatever plan comes next, so that no block is read or written
    /// for this transfer once it may be another's.
    pub(super) fn close(&mut self, transfer: TransferId, effects: &mut Vec<EngineEffect>) {
        let ranks = self.setup.iter().flat_map(|setup| setup.ranks.iter().map(|place| place.rank));
        self.closing.insert(transfer, ranks.collect());
        effects.push(TransferEffect::Order(TransferOrder::Close(transfer)).into());
    }

    /// A rank does nothing more for a transfer.
    pub(super) fn closed(&mut self, report: &TransferReport, effects: &mut Vec<EngineEffect>) {
        let Some(left) = self.closing.get_mut(&report.transfer) else { return };
        left.remove(&report.rank);
        if left.is_empty() {
            self.closing.remove(&report.transfer);
        }
        if let TransferState::Closed(dropped @ 1..) = report.state {
            effects.push(EngineEffect::Observe(Observation::FramesDropped(dropped)));
        }
    }
}
