//! One transfer at a rank that sends blocks: which may leave, and which have.
//!
//! A block may leave once all of its positions are computed: after each layer of the step that
//! completes it that layer's part, so that sending overlaps with the layers that follow. What the
//! sequence found in the cache is complete when its first step begins, or at once where there is
//! nothing to compute. A sequence that loses its
//! blocks sends nothing until it has new ones; what has left has left.

use std::{ops::Range, sync::Arc};

use troupe_runtime::{
    id::{BlockId, Coordinate, SequenceId},
    wire::transfer::{ExportOrder, KvFrame, KvRoute, KvShare, Run},
};

use super::FRAME_BYTES;

/// One transfer.
#[derive(Debug)]
pub struct Export {
    order: ExportOrder,
    routes: Vec<Route>,
    tables: Option<Arc<Vec<Vec<BlockId>>>>,
    block_size: u32,
    /// Blocks that are complete in all layers.
    complete: u32,
    /// Blocks that are, once the step under way is done.
    coming: u32,
}

/// A route of this rank, and how far it is.
#[derive(Debug)]
struct Route {
    route: KvRoute,
    share: KvShare,
    /// For each of the route's layers, the next block.
    next: Vec<u32>,
    end: u32,
    frame_blocks: u32,
}

/// Something that may leave now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its header, without the checksum.
    pub frame: KvFrame,
    /// To whom.
    pub to: Coordinate,
    /// KV group.
    pub group: usize,
    /// Layer of the group on this rank.
    pub layer: usize,
    /// Heads of this rank.
    pub heads: Range<usize>,
    /// Where the blocks are.
    pub blocks: Vec<BlockId>,
    route: usize,
}

impl Export {
    /// What `rank`, which holds `shares`, has to send of a transfer.
    pub fn new(order: ExportOrder, rank: Coordinate, shares: &[KvShare]) -> Self {
        let routes = order.routes.iter().filter(|route| route.from == rank);
        let routes = routes.filter_map(|route| {
            let share = shares.iter().find(|share| share.group == route.group)?;
            let wants = order.wants.get(route.group as usize)?;
            let fits = share.layers.holds(route.layers) && share.heads.holds(route.heads);
            let bytes = share.piece_bytes()? * route.heads.len().max(1) as usize;
            fits.then(|| Route {
                route: route.clone(),
                share: *share,
                next: vec![wants.first; route.layers.len() as usize],
                end: wants.end.max(wants.first),
                frame_blocks: (FRAME_BYTES / bytes).max(1) as u32,
            })
        });
        let routes = routes.collect();
        let block_size = shares.first().map_or(1, |share| share.block_size);
        let tables = order.complete.clone().map(Arc::new);
        let complete = order.wants.iter().map(|run| run.end).max().filter(|_| tables.is_some());
        let complete = complete.unwrap_or(0);
        Self { order, routes, tables, block_size, complete, coming: complete }
    }

    /// The sequence that is computed for it.
    pub fn sequence(&self) -> SequenceId {
        self.order.sequence
    }

    /// A step of the sequence begins: it has these blocks, and `end` positions when it is done.
    pub fn begin_step(&mut self, tables: &Arc<Vec<Vec<BlockId>>>, computed: u32, end: u32) {
        self.tables = Some(tables.clone());
        self.complete = computed / self.block_size;
        self.coming = end / self.block_size;
    }

    /// The step is done.
    pub fn end_step(&mut self) {
        self.complete = self.complete.max(self.coming);
    }

    /// The sequence has no blocks any more, or not for now.
    pub fn lose_blocks(&mut self) {
        self.tables = None;
        (self.complete, self.coming) = (0, 0);
    }

    /// Whether everything has left.
    pub fn is_done(&self) -> bool {
        self.routes.iter().all(|route| route.next.iter().all(|next| *next >= route.end))
    }

    /// The next piece that may leave by a line that has room: of one layer that the step under way
    /// is through with, or of any.
    pub fn next(
        &self,
        layer: Option<(usize, usize)>,
        has_room: impl Fn(Coordinate) -> bool,
    ) -> Option<Piece> {
        let tables = self.tables.as_ref()?;
        let limit = if layer.is_some() { self.coming } else { self.complete };
        let mut routes = (0..).zip(&self.routes).filter(|(_, route)| has_room(route.route.to));
        routes.find_map(|(at, route)| {
            let table = tables.get(route.route.group as usize)?;
            let due = |layer: usize| self.due(at, route, layer, limit, table);
            match layer {
                None => (0..route.next.len()).find_map(due),
                Some((group, local)) => {
                    let global = route.share.layers.first + local as u32;
                    let is_its = group == route.route.group as usize
                        && route.route.layers.holds(Run::new(global, global + 1));
                    is_its.then(|| due((global - route.route.layers.first) as usize)).flatten()
                }
            }
        })
    }

    /// The piece has left.
    pub fn sent(&mut self, piece: &Piece) {
        let Some(route) = self.routes.get_mut(piece.route) else { return };
        let layer = (piece.frame.layer - route.route.layers.first) as usize;
        if let Some(next) = route.next.get_mut(layer) {
            *next = piece.frame.blocks.end;
        }
    }

    fn due(
        &self,
        at: usize,
        route: &Route,
        layer: usize,
        limit: u32,
        table: &[BlockId],
    ) -> Option<Piece> {
        let first = *route.next.get(layer)?;
        let end = route.end.min(limit).min(first.saturating_add(route.frame_blocks));
        let blocks = table.get(first as usize..end as usize).filter(|blocks| !blocks.is_empty())?;
        let KvRoute { group, layers, heads, to, .. } = &route.route;
        let global = layers.first + layer as u32;
        let head = |head: u32| (head - route.share.heads.first) as usize;
        Some(Piece {
            frame: KvFrame {
                epoch: self.order.epoch,
                request: self.order.request,
                transfer: self.order.transfer,
                group: *group,
                layer: global,
                heads: *heads,
                blocks: Run::new(first, end),
                checksum: 0,
            },
            to: *to,
            group: *group as usize,
            layer: (global - route.share.layers.first) as usize,
            heads: head(heads.first)..head(heads.end),
            blocks: blocks.to_vec(),
            route: at,
        })
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        id::{Epoch, RequestId, TransferId},
        wire::{kv::WireDtype, transfer::KvForm},
    };

    use super::*;

    const RANK: Coordinate = Coordinate { dp: 0, stage: 1, tp: 0 };

    /// Layers 2 and 3 and heads 4 and 5 are here; layer 3's head 5 goes to one rank, layers 2 and
    /// 3's head 4 to another.
    fn export() -> Export {
        let share = KvShare {
            group: 0,
            layers: Run::new(2, 4),
            heads: Run::new(4, 6),
            form: KvForm::Heads(4),
            dtype: WireDtype::F32,
            block_size: 4,
        };
        let route = |tp, layers, heads| KvRoute {
            from: RANK,
            to: Coordinate { dp: 0, stage: 0, tp },
            address: String::new(),
            group: 0,
            layers,
            heads,
        };
        let elsewhere =
            KvRoute { from: Coordinate::default(), ..route(0, share.layers, share.heads) };
        let routes = vec![
            elsewhere,
            route(0, Run::new(3, 4), Run::new(5, 6)),
            route(1, Run::new(2, 4), Run::new(4, 5)),
        ];
        let order = ExportOrder {
            transfer: TransferId(7),
            request: RequestId::default(),
            epoch: Epoch::default(),
            sequence: SequenceId(1),
            wants: vec![Run::new(1, 3)],
            routes,
            complete: None,
        };
        Export::new(order, RANK, &[share])
    }

    fn tables() -> Arc<Vec<Vec<BlockId>>> {
        Arc::new(vec![(10..14).map(BlockId).collect()])
    }

    fn drain(export: &mut Export, layer: Option<(usize, usize)>) -> Vec<(u32, u32, Run)> {
        let mut sent = Vec::new();
        while let Some(piece) = export.next(layer, |_| true) {
            sent.push((piece.to.tp, piece.frame.layer, piece.frame.blocks));
            export.sent(&piece);
        }
        sent
    }

    #[test]
    fn a_layer_leaves_when_it_is_through_and_every_block_leaves_once() {
        let mut export = export();
        assert!(export.next(None, |_| true).is_none(), "it has no blocks yet");
        export.begin_step(&tables(), 0, 9);
        assert!(export.next(None, |_| true).is_none(), "nothing is complete before the step");
        assert_eq!(drain(&mut export, Some((0, 0))), [(1, 2, Run::new(1, 2))]);
        assert_eq!(
            drain(&mut export, Some((0, 1))),
            [(0, 3, Run::new(1, 2)), (1, 3, Run::new(1, 2))]
        );
        export.end_step();
        assert!(drain(&mut export, None).is_empty() && !export.is_done());
        export.begin_step(&tables(), 9, 12);
        export.end_step();
        let rest = drain(&mut export, None);
        assert_eq!(rest.len(), 3, "{rest:?}");
        assert!(rest.iter().all(|(_, _, blocks)| *blocks == Run::new(2, 3)));
        assert!(export.is_done());
    }

    #[test]
    fn what_is_cached_leaves_without_a_step() {
        let order = ExportOrder { complete: Some(tables().to_vec()), ..export().order };
        let share = export().routes[0].share;
        let mut export = Export::new(order, RANK, &[share]);
        assert_eq!(drain(&mut export, None).len(), 3);
        assert!(export.is_done());
    }

    #[test]
    fn a_line_without_room_does_not_hold_up_others_and_is_served_later() {
        let mut export = export();
        export.begin_step(&tables(), 12, 13);
        let piece = export.next(None, |to| to.tp == 1).unwrap();
        assert_eq!((piece.heads.clone(), piece.layer), (0..1, 0));
        assert_eq!(piece.blocks, [BlockId(11), BlockId(12)]);
        assert!(export.next(None, |_| false).is_none());
        assert_eq!(export.next(None, |_| true).unwrap().to.tp, 0);
    }

    #[test]
    fn a_sequence_without_blocks_sends_nothing_until_it_has_others() {
        let mut export = export();
        export.begin_step(&tables(), 0, 8);
        export.end_step();
        assert_eq!(drain(&mut export, None).len(), 3);
        export.lose_blocks();
        assert!(export.next(None, |_| true).is_none());
        let others = Arc::new(vec![(20..24).map(BlockId).collect()]);
        export.begin_step(&others, 4, 12);
        export.end_step();
        let piece = export.next(None, |_| true).unwrap();
        assert_eq!((piece.frame.blocks, piece.blocks), (Run::new(2, 3), vec![BlockId(22)]));
    }
}
