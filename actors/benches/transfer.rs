//! What moving KV blocks costs on this machine, part by part: out of a pool and into another,
//! checksums at both ends, and frames with them over QUIC on loopback and through shared memory:
//! `cargo bench -p troupe-actors --bench transfer`

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use troupe_actors::worker::transfer::{FRAME_BYTES, Incoming, inspect, ring};
use troupe_gpu::{
    backend::KvSpan,
    dtype::Dtype,
    kv::KvPool,
    shape::{AttentionMask, KvKind, KvSpec},
};
use troupe_runtime::{
    id::{BlockId, Coordinate, Epoch, NodeId, RequestId, TransferId},
    spec::EngineFlags,
    transport::{
        Class, Connection, Conversation, Link, PeerRole, QuicConfig, QuicLink, TransportRuntime,
        shm, tls::ClusterAuthority,
    },
    wire::transfer::{KvFrame, KvOpen, Run},
};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(30);
/// Sent in one go.
const BULK_BYTES: usize = 64 << 20;
/// 128 positions of eight heads of 128 in half precision: half a megabyte.
const BLOCKS: u32 = 8;

fn frame() -> KvFrame {
    KvFrame {
        epoch: Epoch::default(),
        request: RequestId::default(),
        transfer: TransferId(1),
        group: 0,
        layer: 0,
        heads: Run::new(0, 8),
        blocks: Run::new(0, BLOCKS),
        checksum: 0,
    }
}

fn pools(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    for (name, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::Bf16)] {
        let spec = KvSpec {
            layers: 1,
            kind: KvKind::Heads { kv_heads: 8, head_dim: 128 },
            block_size: 16,
            dtype: dtype.into(),
            mask: AttentionMask::Causal,
        };
        let mut pool = KvPool::new(&spec, BLOCKS).expect("it fits");
        let blocks: Vec<_> = (0..BLOCKS).map(BlockId).collect();
        let span = KvSpan { layer: 0, heads: 0..8, blocks: &blocks };
        let mut bytes = Vec::new();
        pool.export(&span, &mut bytes).expect("exported");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("export_{name}"), |bencher| {
            bencher.iter(|| pool.export(&span, black_box(&mut bytes)).expect("exported"));
        });
        group.bench_function(format!("import_{name}"), |bencher| {
            bencher.iter(|| pool.import(&span, black_box(&bytes)).expect("imported"));
        });
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let bytes = Bytes::from(vec![7; FRAME_BYTES]);
    group.throughput(Throughput::Bytes(FRAME_BYTES as u64));
    group.bench_function("seal", |bencher| {
        bencher.iter(|| black_box(frame().seal(&bytes)));
    });
    group.finish();
}

fn lines(criterion: &mut Criterion) {
    let runtime = TransportRuntime::new(2).expect("threads");
    let ca = ClusterAuthority::create("bench").expect("the CA");
    let link = |number| {
        let identity = ca.issue(PeerRole::Node, NodeId(Uuid::from_u128(number))).expect("a leaf");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = QuicConfig { listen, ..QuicConfig::default() };
        QuicLink::bind(&identity, &config, &runtime).expect("a free port")
    };
    let (a, b) = (link(1), link(2));
    let end = Coordinate::default();
    let open = KvOpen { epoch: Epoch::default(), transfer: TransferId(1), from: end, to: end };
    let address = b.address();
    let (here, there): (Arc<dyn Connection>, Arc<dyn Connection>) =
        runtime.handle().block_on(async {
            let (here, there) = tokio::join!(a.connect(&address, Class::Kv, LONG), b.accept());
            (here.expect("here"), there.expect("there"))
        });
    let mut group = criterion.benchmark_group("line");
    group.sample_size(20).throughput(Throughput::Bytes(BULK_BYTES as u64));
    let bytes = Bytes::from(vec![7; FRAME_BYTES]);
    for (name, ring) in [("quic_64_mib", None), ("shm_64_mib", ring(&EngineFlags::default()))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.handle().block_on(async {
                    let (here, there) = (here.clone(), there.clone());
                    let taken = tokio::spawn(async move {
                        let (_, stream) = there.accept().await.expect("accepted");
                        let mut receiver = shm::borrow(stream, ring);
                        while let Some((frame, bytes)) =
                            receiver.next_with_tensor::<KvFrame>().await.expect("a frame")
                        {
                            assert!(matches!(inspect(frame, bytes), Incoming::Frame(..)));
                        }
                    });
                    let stream = here.open(Conversation::Kv(open), LONG).await.expect("opened");
                    let mut sender = shm::lend(stream, ring, LONG).await.expect("lent");
                    for _ in 0..BULK_BYTES / FRAME_BYTES {
                        let frame = frame().seal(&bytes);
                        sender.send_with_tensor(&frame, bytes.clone(), LONG).await.expect("sent");
                    }
                    sender.finish().expect("finished");
                    taken.await.expect("all of it");
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pools, checksums, lines);
criterion_main!(benches);
