//! A follower and a leader by script, over a link.

mod faults;

use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use troupe_runtime::{
    id::NodeId,
    transport::{Class, Link, LocalLink, LocalNetwork, PeerIdentity, PeerRole, Stream},
    wire::cache::{CacheBatch, CacheParams, CacheSnapshot, CacheStill},
};

use super::{super::super::namings::Prefixes, *};
use crate::placement::endpoint::tests::info;

const WAIT: Duration = Duration::from_secs(10);

/// Both ends: what is known at the one, and the conversations that the other is asked for.
struct Ends {
    prefixes: Arc<Prefixes>,
    cached: Arc<Cached>,
    asked: mpsc::Receiver<Stream>,
    _links: [Arc<LocalLink>; 2],
    _tasks: JoinSet<()>,
}

impl Ends {
    async fn start() -> Self {
        let network = LocalNetwork::new();
        let identity =
            |role| PeerIdentity { cluster: "c".into(), role, node: NodeId(uuid::Uuid::now_v7()) };
        let links = [PeerRole::Gateway, PeerRole::Node].map(|role| network.link(identity(role)));
        let ours = links[0].connect(&links[1].address(), Class::Control, WAIT).await.unwrap();
        let theirs = links[1].accept().await.unwrap();
        let (streams, asked) = mpsc::channel(8);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((what, stream)) = theirs.accept().await {
                assert_eq!(what, Conversation::Cache);
                streams.send(stream).await.unwrap();
            }
        });
        let prefixes = Arc::new(Prefixes::default());
        let parameters = Parameters::of(&info("m", 0));
        let cached = Arc::new(Cached::new(Arc::clone(&prefixes), &parameters));
        tasks.spawn(follow(info("m", 0), Arc::clone(&cached), ours, Instant::now()));
        Self { prefixes, cached, asked, _links: links, _tasks: tasks }
    }

    /// The next conversation, up to the leader's first word, and what is known in it already.
    async fn begin(&mut self, params: CacheParams) -> (Stream, Option<u64>) {
        let mut stream = timeout(WAIT, self.asked.recv()).await.unwrap().unwrap();
        let CacheUp::Follow(asked) = stream.receiver.expect(WAIT).await.unwrap();
        stream.sender.send(&CacheDown::Params(params), WAIT).await.unwrap();
        (stream, asked.since)
    }

    fn run(&self, hashes: &[u128]) -> u32 {
        self.cached.run(&self.prefixes.index.runs(hashes))
    }

    async fn until(&self, hashes: &[u128], run: u32) {
        let reached = async {
            while self.run(hashes) != run {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(WAIT, reached).await.expect("it is known in time");
    }
}

fn params() -> CacheParams {
    let (endpoint, hashing) = (info("m", 0).endpoint, Parameters::of(&info("m", 0)).digest());
    CacheParams { endpoint, block_size: 16, blocks: 64, hashing }
}

fn batch(seq: u64, removed: &[u128], stored: &[u128]) -> CacheDown {
    let (removed, stored) = (removed.to_vec(), stored.to_vec());
    CacheDown::Batch(CacheBatch { seq, removed, stored, ..CacheBatch::default() })
}

#[tokio::test]
async fn what_a_leader_tells_is_known_also_after_the_conversation_broke() {
    let mut ends = Ends::start().await;
    let (mut stream, since) = ends.begin(params()).await;
    assert_eq!(since, None);
    let held = vec![1, 2, 3];
    let all = CacheSnapshot { seq: 7, last: true, held, ..CacheSnapshot::default() };
    stream.sender.send(&CacheDown::Snapshot(all), WAIT).await.unwrap();
    ends.until(&[1, 2, 3, 4], 3).await;
    stream.sender.send(&batch(8, &[3], &[]), WAIT).await.unwrap();
    ends.until(&[1, 2, 3, 4], 2).await;
    drop(stream);
    let (mut stream, since) = ends.begin(params()).await;
    assert_eq!((since, ends.run(&[1, 2, 3, 4])), (Some(8), 2));
    stream.sender.send(&batch(9, &[], &[3, 4]), WAIT).await.unwrap();
    ends.until(&[1, 2, 3, 4], 4).await;
    // One is left out; the leader says where it is.
    let still = CacheStill { epoch: params().endpoint.epoch, seq: 11 };
    stream.sender.send(&CacheDown::Still(still), WAIT).await.unwrap();
    let CacheUp::Follow(asked) = stream.receiver.expect(WAIT).await.unwrap();
    assert_eq!(asked.since, Some(9));
}

#[tokio::test]
async fn what_a_liar_has_told_is_forgotten() {
    let mut ends = Ends::start().await;
    let (mut stream, _) = ends.begin(params()).await;
    let all = CacheSnapshot { last: true, held: vec![1, 2], ..CacheSnapshot::default() };
    stream.sender.send(&CacheDown::Snapshot(all), WAIT).await.unwrap();
    ends.until(&[1, 2], 2).await;
    let more: Vec<u128> = (100..200).collect();
    stream.sender.send(&batch(1, &[], &more), WAIT).await.unwrap();
    ends.until(&[1, 2], 0).await;
    assert_eq!(ends.run(&more), 0);
    let (_stream, since) = ends.begin(CacheParams { block_size: 8, ..params() }).await;
    assert_eq!(since, None, "it begins anew");
}
