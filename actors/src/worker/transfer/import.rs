//! One transfer at a rank that takes blocks: what was asked for, and what is there.
//!
//! A frame is taken if it is of this transfer, within what was asked for and what this rank holds,
//! and nothing of it is there yet. Whatever else comes is dropped, and never written: its sender
//! has its own idea of the world.

use std::ops::Range;

use troupe_runtime::{
    id::{BlockId, Epoch},
    wire::transfer::{ImportOrder, KvFrame, KvShare, Run},
};

/// One transfer.
#[derive(Debug)]
pub struct Import {
    order: ImportOrder,
    epoch: Epoch,
    groups: Vec<Group>,
    /// Pieces that are missing of each block, from the first that any group wants.
    missing: Vec<u32>,
    /// Place in the sequence of the first entry of `missing`: before it all is there.
    base: u32,
    ready: u32,
    /// Some group does not want all of what is missing, because what it leaves out is behind its
    /// window at the end. At an earlier end it would not be, so that only all of it is of use.
    only_all: bool,
}

#[derive(Debug)]
struct Group {
    share: KvShare,
    wants: Run,
    /// For each layer, block and head, in this order, whether it is there.
    there: Vec<bool>,
}

/// Why a frame is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It, or a part of it, is there already: nothing is lost.
    CameBefore,
    /// It is not what was asked for.
    Alien(String),
}

/// Where the bytes of a frame go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// KV group.
    pub group: usize,
    /// Layer of the group on this rank.
    pub layer: usize,
    /// Heads of this rank.
    pub heads: Range<usize>,
    /// Blocks of this rank's pool.
    pub blocks: Vec<BlockId>,
}

impl Import {
    /// A transfer of which nothing is there, at a rank that holds `shares`.
    pub fn new(order: ImportOrder, epoch: Epoch, shares: &[KvShare]) -> Self {
        let wanted =
            |share: &KvShare| order.wants.get(share.group as usize).copied().unwrap_or_default();
        let base = order.first;
        let end = order.wants.iter().map(|run| run.end).max().unwrap_or(0);
        let only_all = order.wants.iter().any(|run| run.first != base);
        let mut missing = vec![0; Run::new(base, end).len() as usize];
        let groups = shares.iter().map(|share| {
            let wants = wanted(share);
            let pieces = share.layers.len() * share.heads.len();
            for at in wants.first..wants.end {
                if let Some(missing) = missing.get_mut(at.wrapping_sub(base) as usize) {
                    *missing += pieces;
                }
            }
            let there = vec![false; (pieces * wants.len()) as usize];
            Group { share: *share, wants, there }
        });
        let groups = groups.collect();
        let mut import = Self { order, epoch, groups, missing, base, ready: base, only_all };
        import.advance();
        import
    }

    /// Where the frame's bytes are to be written, if they are to be.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn place(&self, frame: &KvFrame, bytes: usize) -> Result<Place, Wrong> {
        if (frame.epoch, frame.transfer, frame.request)
            != (self.epoch, self.order.transfer, self.order.request)
        {
            let why = format!("a frame of epoch {}, of another transfer", frame.epoch);
            return Err(Wrong::Alien(why));
        }
        let (group, blocks) = self.find(frame).ok_or_else(|| {
            let KvFrame { group, layer, heads, blocks, .. } = frame;
            let what = format!("group {group}, layer {layer}, {heads:?}, {blocks:?}");
            Wrong::Alien(format!("{what} were not asked for"))
        })?;
        let share = &group.share;
        let expected = share.piece_bytes().unwrap_or(0)
            * frame.heads.len() as usize
            * frame.blocks.len() as usize;
        if bytes != expected {
            let why = format!("{bytes} bytes of KV where {expected} were to come");
            return Err(Wrong::Alien(why));
        }
        if group.pieces(frame).any(|at| group.there[at]) {
            return Err(Wrong::CameBefore);
        }
        let head = |head: u32| (head - share.heads.first) as usize;
        Ok(Place {
            group: share.group as usize,
            layer: (frame.layer - share.layers.first) as usize,
            heads: head(frame.heads.first)..head(frame.heads.end),
            blocks,
        })
    }

    /// The frame's bytes are written.
    pub fn written(&mut self, frame: &KvFrame) {
        let Some(group) = self.groups.iter_mut().find(|own| own.share.group == frame.group) else {
            return;
        };
        let pieces: Vec<_> = group.pieces(frame).collect();
        pieces.into_iter().for_each(|at| group.there[at] = true);
        for at in frame.blocks.first..frame.blocks.end {
            if let Some(missing) = self.missing.get_mut((at - self.base) as usize) {
                *missing -= frame.heads.len();
            }
        }
        self.advance();
    }

    /// All blocks before this place are there, or are not needed here.
    pub fn ready(&self) -> u32 {
        let end = self.base + self.missing.len() as u32;
        if self.only_all && self.ready < end { self.base } else { self.ready }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        (self.ready - self.base) as usize == self.missing.len()
    }

    fn advance(&mut self) {
        while self.missing.get((self.ready - self.base) as usize) == Some(&0) {
            self.ready += 1;
        }
    }

    fn find(&self, frame: &KvFrame) -> Option<(&Group, Vec<BlockId>)> {
        let group = self.groups.iter().find(|own| own.share.group == frame.group)?;
        let layer = Run::new(frame.layer, frame.layer.checked_add(1)?);
        let fits = group.share.layers.holds(layer)
            && group.share.heads.holds(frame.heads)
            && group.wants.holds(frame.blocks);
        let own = self.order.blocks.get(frame.group as usize)?;
        let index = |at: u32| (at - group.wants.first) as usize;
        fits.then(|| own.get(index(frame.blocks.first)..index(frame.blocks.end)))
            .flatten()
            .map(|blocks| (group, blocks.to_vec()))
    }
}

impl Group {
    /// Which entries of `there` a frame within this group's bounds is about.
    fn pieces(&self, frame: &KvFrame) -> impl Iterator<Item = usize> + use<> {
        let (heads, blocks) = (self.share.heads, self.wants);
        let layer = (frame.layer - self.share.layers.first) * blocks.len();
        let of = *frame;
        (of.blocks.first..of.blocks.end).flat_map(move |block| {
            let row = (layer + block - blocks.first) * heads.len();
            (of.heads.first..of.heads.end).map(move |head| (row + head - heads.first) as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        id::{RequestId, TransferId},
        wire::{kv::WireDtype, transfer::KvForm},
    };

    use super::*;

    const EPOCH: Epoch = Epoch { number: 3, nonce: 4 };

    fn share(group: u32) -> KvShare {
        KvShare {
            group,
            layers: Run::new(2, 4),
            heads: Run::new(4, 6),
            form: KvForm::Heads(3),
            dtype: WireDtype::F32,
            block_size: 4,
        }
    }

    fn import(first: u32, wants: &[Run]) -> Import {
        let block = |at: u32| BlockId(100 + at);
        let order = ImportOrder {
            transfer: TransferId(7),
            request: RequestId::default(),
            first,
            wants: wants.to_vec(),
            blocks: wants.iter().map(|run| (run.first..run.end).map(block).collect()).collect(),
        };
        let shares: Vec<_> = (0..).zip(wants).map(|(group, _)| share(group)).collect();
        Import::new(order, EPOCH, &shares)
    }

    fn frame(group: u32, layer: u32, heads: Run, blocks: Run) -> KvFrame {
        KvFrame {
            epoch: EPOCH,
            request: RequestId::default(),
            transfer: TransferId(7),
            group,
            layer,
            heads,
            blocks,
            checksum: 0,
        }
    }

    /// Bytes of a block of one head.
    const PIECE: usize = 2 * 3 * 4 * 4;

    fn take(import: &mut Import, frame: KvFrame) -> Result<Place, Wrong> {
        let bytes = PIECE * (frame.heads.len() * frame.blocks.len()) as usize;
        let place = import.place(&frame, bytes)?;
        import.written(&frame);
        Ok(place)
    }

    #[test]
    fn blocks_are_ready_in_order_once_every_layer_and_head_is_there() {
        let mut import = import(1, &[Run::new(1, 3)]);
        assert_eq!((import.ready(), import.is_complete()), (1, false));
        let both = Run::new(4, 6);
        let place = take(&mut import, frame(0, 3, both, Run::new(1, 3))).unwrap();
        let blocks = vec![BlockId(101), BlockId(102)];
        assert_eq!(place, Place { group: 0, layer: 1, heads: 0..2, blocks });
        take(&mut import, frame(0, 2, both, Run::new(2, 3))).unwrap();
        assert_eq!(import.ready(), 1, "the second block is there, the first is not");
        take(&mut import, frame(0, 2, Run::new(5, 6), Run::new(1, 2))).unwrap();
        assert_eq!(import.ready(), 1);
        take(&mut import, frame(0, 2, Run::new(4, 5), Run::new(1, 2))).unwrap();
        assert_eq!((import.ready(), import.is_complete()), (3, true));
    }

    #[test]
    fn what_was_not_asked_for_is_not_taken() {
        let mut own = import(1, &[Run::new(1, 3)]);
        let (heads, blocks) = (Run::new(4, 6), Run::new(1, 2));
        let good = frame(0, 2, heads, blocks);
        for (bad, why) in [
            (KvFrame { epoch: Epoch { number: 2, ..EPOCH }, ..good }, "epoch"),
            (KvFrame { transfer: TransferId(8), ..good }, "another transfer"),
            (KvFrame { group: 1, ..good }, "not asked for"),
            (KvFrame { layer: 1, ..good }, "not asked for"),
            (KvFrame { layer: u32::MAX, ..good }, "not asked for"),
            (KvFrame { heads: Run::new(3, 6), ..good }, "not asked for"),
            (KvFrame { blocks: Run::new(0, 2), ..good }, "not asked for"),
            (KvFrame { blocks: Run::new(2, 4), ..good }, "not asked for"),
            (KvFrame { blocks: Run::new(2, u32::MAX), ..good }, "not asked for"),
        ] {
            let bytes = PIECE * 2;
            let Err(Wrong::Alien(found)) = own.place(&bad, bytes) else { panic!("{bad:?}") };
            assert!(found.contains(why), "{found}");
        }
        assert!(matches!(own.place(&good, PIECE), Err(Wrong::Alien(_))), "half of it");
        take(&mut own, good).unwrap();
        assert_eq!(take(&mut own, good), Err(Wrong::CameBefore));
        let other = KvFrame { heads: Run::new(4, 5), ..good };
        assert_eq!(take(&mut own, other), Err(Wrong::CameBefore), "a part of it");
    }

    #[test]
    fn where_a_window_begins_late_only_all_of_it_is_of_use() {
        let mut import = import(0, &[Run::new(0, 3), Run::new(2, 3)]);
        let heads = Run::new(4, 6);
        for layer in [2, 3] {
            take(&mut import, frame(0, layer, heads, Run::new(0, 3))).unwrap();
        }
        assert_eq!((import.ready(), import.is_complete()), (0, false), "not without the window");
        for layer in [2, 3] {
            take(&mut import, frame(1, layer, heads, Run::new(2, 3))).unwrap();
        }
        assert_eq!((import.ready(), import.is_complete()), (3, true));
    }

    #[test]
    fn a_window_alone_is_of_no_use_in_part() {
        let mut own = import(0, &[Run::new(2, 4)]);
        assert_eq!(own.ready(), 0, "what is behind the window did not come");
        for layer in [2, 3] {
            take(&mut own, frame(0, layer, Run::new(4, 6), Run::new(2, 3))).unwrap();
        }
        assert_eq!(own.ready(), 0, "a window that ends here would begin earlier");
        for layer in [2, 3] {
            take(&mut own, frame(0, layer, Run::new(4, 6), Run::new(3, 4))).unwrap();
        }
        assert_eq!((own.ready(), own.is_complete()), (4, true));
        assert!(import(2, &[Run::new(2, 2)]).is_complete(), "nothing is wanted");
    }
}
