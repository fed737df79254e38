//! One sequence's blocks on their way from the tiers to the device: what is next, and what is
//! there.
//!
//! Blocks come in the order of the sequence, so that what is there when something fails is a
//! beginning, which need not be computed.

use troupe_runtime::{
    id::BlockId,
    wire::{
        tier::{LoadOrder, TierPlace},
        transfer::Run,
    },
};

/// One load at a rank.
#[derive(Debug)]
pub struct Load {
    pieces: Vec<Piece>,
    /// How many of the pieces are there.
    there: usize,
    first: u32,
    end: u32,
    /// Some group does not want all of what is missing, because what it leaves out is behind its
    /// window at the end. At an earlier end it would not be, so that only all of it is of use.
    only_all: bool,
}

/// A block that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its place in the sequence.
    pub at: u32,
    /// KV group.
    pub group: u32,
    /// Where it goes.
    pub block: BlockId,
    /// Where it is.
    pub place: TierPlace,
}

impl Load {
    /// What is to come at a rank that holds something of these KV groups.
    pub fn new(order: &LoadOrder, groups: &[u32]) -> Self {
        let end = order.wants.iter().map(|run| run.end).max().unwrap_or(order.first);
        let only_all = order.wants.iter().any(|run| run.first != order.first);
        let mut pieces = Vec::new();
        for &group in groups {
            let own = group as usize;
            let (Some(wants), Some(blocks), Some(places)) =
                (order.wants.get(own), order.blocks.get(own), order.places.get(own))
            else {
                continue;
            };
            let Run { first, end } = *wants;
            let all = (first..end).zip(blocks.iter().zip(places));
            pieces.extend(all.map(|(at, (&block, &place))| Piece { at, group, block, place }));
        }
        pieces.sort_by_key(|piece| (piece.at, piece.group));
        Self { pieces, there: 0, first: order.first, end, only_all }
    }

    /// The pieces that are missing, in the order in which they are to come.
    pub fn missing(&self) -> &[Piece] {
        &self.pieces[self.there..]
    }

    /// The first missing piece is there.
    pub fn written(&mut self) {
        self.there = (self.there + 1).min(self.pieces.len());
    }

    /// All blocks before this place are there, or are not needed here.
    pub fn ready(&self) -> u32 {
        match self.missing().first() {
            None => self.end,
            Some(_) if self.only_all => self.first,
            Some(next) => next.at.max(self.first),
        }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{id::TransferId, wire::tier::Tier};

    use super::*;

    fn order(first: u32, wants: &[Run]) -> LoadOrder {
        let place = |at: u32| TierPlace { tier: Tier::Host, slot: at, key: at.into() };
        LoadOrder {
            transfer: TransferId(7),
            first,
            wants: wants.to_vec(),
            blocks: wants.iter().map(|run| (run.first..run.end).map(BlockId).collect()).collect(),
            places: wants.iter().map(|run| (run.first..run.end).map(place).collect()).collect(),
        }
    }

    #[test]
    fn blocks_are_ready_once_every_group_has_them() {
        let mut load = Load::new(&order(1, &[Run::new(1, 3), Run::new(1, 3)]), &[0, 1]);
        assert_eq!((load.ready(), load.missing().len()), (1, 4));
        load.written();
        assert_eq!(load.ready(), 1, "the other group lacks it");
        load.written();
        assert_eq!(load.ready(), 2);
        load.written();
        load.written();
        assert_eq!((load.ready(), load.is_complete()), (3, true));
    }

    #[test]
    fn a_window_is_of_no_use_in_part() {
        let mut load = Load::new(&order(0, &[Run::new(0, 3), Run::new(2, 3)]), &[0, 1]);
        for _ in 0..3 {
            assert_eq!(load.ready(), 0);
            load.written();
        }
        load.written();
        assert_eq!((load.ready(), load.is_complete()), (3, true));
    }

    #[test]
    fn a_rank_without_these_groups_has_nothing_to_wait_for() {
        let load = Load::new(&order(1, &[Run::new(1, 3)]), &[]);
        assert_eq!((load.ready(), load.is_complete()), (3, true));
    }
}
