//! What moving bytes costs on this machine: the round trip of a small activation and the speed of
//! bulk, over QUIC on loopback and between two threads: `cargo bench -p troupe-runtime --bench
//! link`

use std::{hint::black_box, net::SocketAddr, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use troupe_runtime::{
    id::{Coordinate, Epoch, NodeId, StepId},
    transport::{
        Class, Connection, Conversation, Link, PeerRole, QuicConfig, QuicLink, TransportRuntime,
        bulk::{BulkReceiver, BulkSender, bulk_over, bulk_pair},
        tls::ClusterAuthority,
    },
    wire::kv::{BulkChannel, BulkOpen, TensorHeader, WireDtype},
};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(30);
const ACTIVATION_BYTES: usize = 16 << 10;
const BULK_BYTES: usize = 64 << 20;

/// Both directions of one conversation between two links, as device threads hold them.
type Ends = [(BulkSender, BulkReceiver); 2];

fn header(bytes: usize) -> TensorHeader {
    TensorHeader { step: StepId(1), index: 0, rows: 1, columns: bytes as u32, dtype: WireDtype::U8 }
}

fn over_quic(runtime: &TransportRuntime) -> (Ends, Vec<Arc<QuicLink>>) {
    let ca = ClusterAuthority::create("bench").expect("the CA");
    let link = |number| {
        let identity = ca.issue(PeerRole::Node, NodeId(Uuid::from_u128(number))).expect("a leaf");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = QuicConfig { listen, ..QuicConfig::default() };
        QuicLink::bind(&identity, &config, runtime).expect("a free port")
    };
    let (a, b) = (link(1), link(2));
    let what = Conversation::Bulk(BulkOpen {
        epoch: Epoch::default(),
        from: Coordinate::default(),
        to: Coordinate::default(),
        channel: BulkChannel::Activation,
    });
    let ends = runtime.handle().block_on(async {
        let address = b.address();
        let (here, there) = tokio::join!(a.connect(&address, Class::Activations, LONG), b.accept());
        let (here, there): (Arc<dyn Connection>, _) = (here.expect("here"), there.expect("there"));
        let (opened, accepted) = tokio::join!(here.open(what, LONG), there.accept());
        let over = |stream| bulk_over(stream, 3, runtime.handle());
        [over(opened.expect("opened")), over(accepted.expect("accepted").1)]
    });
    (ends, vec![a, b])
}

fn over_channel() -> Ends {
    let ((a_out, b_in), (b_out, a_in)) = (bulk_pair(3), bulk_pair(3));
    [(a_out, a_in), (b_out, b_in)]
}

fn measure(criterion: &mut Criterion, carrier: &str, ends: Ends) {
    let [(mut here_out, mut here_in), (mut there_out, mut there_in)] = ends;
    // Sends small tensors back, swallows large ones and answers the last with a small one.
    let echo = thread::spawn(move || {
        while let Ok((header, bytes)) = there_in.receive_any(LONG) {
            let answer = if bytes.len() > ACTIVATION_BYTES { Bytes::new() } else { bytes };
            let header = TensorHeader { columns: answer.len() as u32, ..header };
            if there_out.send(header, answer).is_err() {
                return;
            }
        }
    });
    let mut group = criterion.benchmark_group(carrier);
    for (name, bytes) in [("round_trip_16_kib", ACTIVATION_BYTES), ("bulk_64_mib", BULK_BYTES)] {
        let tensor = Bytes::from(vec![7; bytes]);
        group.sample_size(20).throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                here_out.send(header(bytes), tensor.clone()).expect("sent");
                black_box(here_in.receive_any(LONG).expect("answered"))
            });
        });
    }
    group.finish();
    drop((here_out, here_in));
    echo.join().expect("the echo");
}

fn link(criterion: &mut Criterion) {
    measure(criterion, "channel", over_channel());
    let runtime = TransportRuntime::new(2).expect("threads");
    let (ends, _links) = over_quic(&runtime);
    measure(criterion, "quic", ends);
}

criterion_group!(benches, link);
criterion_main!(benches);
