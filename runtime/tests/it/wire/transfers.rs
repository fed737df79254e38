//! Of the messages of one kind each, those about KV on its way between groups and tiers.

use troupe_runtime::{
    id::{BlockId, Digest, RequestId, SequenceId, TransferId},
    wire::{
        kv::WireDtype,
        tier::{LoadOrder, Tier, TierFrom, TierMove, TierPlace},
        transfer::{
            ExportOrder, ImportOrder, KvForm, KvFrame, KvOpen, KvRoute, KvShare, Prefill,
            RankPlace, Run, TransferOrder, TransferReport, TransferState,
        },
    },
};
use uuid::Uuid;

use super::samples::{endpoint, epoch, rank};

pub(super) fn share() -> KvShare {
    KvShare {
        group: 0,
        layers: Run::new(2, 4),
        heads: Run::new(0, 2),
        form: KvForm::Heads(64),
        dtype: WireDtype::F32,
        block_size: 16,
    }
}

pub(super) fn prefill() -> Prefill {
    let place =
        RankPlace { rank: rank(), address: "quic://10.0.0.2:7000".into(), shares: vec![share()] };
    Prefill {
        transfer: TransferId(77),
        request: RequestId(Uuid::from_u128(42)),
        endpoint: endpoint(),
        epoch: epoch(),
        time_left_ms: 3000,
        priority: -2,
        cached_only: true,
        tokens: vec![1, 2, 3, 4],
        model: Digest([1; 32]),
        adapter: None,
        cache_salt: Some("salt".into()),
        traceparent: None,
        wants: vec![Run::new(1, 2)],
        ranks: vec![place],
    }
}

pub(super) fn kv_frame() -> KvFrame {
    KvFrame {
        epoch: epoch(),
        request: RequestId(Uuid::from_u128(42)),
        transfer: TransferId(77),
        group: 0,
        layer: 3,
        heads: Run::new(0, 2),
        blocks: Run::new(1, 2),
        checksum: 5,
    }
}

pub(super) fn kv_open() -> KvOpen {
    KvOpen { epoch: epoch(), transfer: TransferId(77), from: rank(), to: rank() }
}

pub(super) fn orders() -> [TransferOrder; 5] {
    let route = KvRoute {
        from: rank(),
        to: rank(),
        address: "quic://10.0.0.2:7000".into(),
        group: 0,
        layers: Run::new(2, 4),
        heads: Run::new(0, 1),
    };
    let (transfer, request) = (TransferId(77), RequestId(Uuid::from_u128(42)));
    let wants = vec![Run::new(1, 2)];
    [
        TransferOrder::Export(Box::new(ExportOrder {
            transfer,
            request,
            epoch: epoch(),
            sequence: SequenceId(5),
            wants: wants.clone(),
            routes: vec![route],
            complete: Some(vec![vec![BlockId(4), BlockId(6)]]),
        })),
        TransferOrder::Import(Box::new(ImportOrder {
            transfer,
            request,
            first: 1,
            wants: wants.clone(),
            blocks: vec![vec![BlockId(9)]],
        })),
        TransferOrder::Load(Box::new(LoadOrder {
            transfer,
            first: 1,
            wants,
            blocks: vec![vec![BlockId(9)]],
            places: vec![vec![TierPlace { tier: Tier::Disk, slot: 3, key: 11 }]],
        })),
        TransferOrder::Move(vec![
            TierMove { group: 0, key: 11, from: TierFrom::Host(2), slot: 3 },
            TierMove { group: 0, key: 12, from: TierFrom::Device(BlockId(9)), slot: 2 },
        ]),
        TransferOrder::Close(transfer),
    ]
}

pub(super) fn transfer_report(state: TransferState) -> TransferReport {
    TransferReport { transfer: TransferId(77), rank: rank(), state }
}
