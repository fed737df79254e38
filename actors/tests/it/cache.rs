//! What a real leader tells of its cache: the same to all who follow, and what is there.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use troupe_actors::controller::desired::launch;
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::NodeId,
    prefix::Parameters,
    spec::EngineFlags,
    transport::{Class, Connection, Conversation, FaultProfile, Faults, Link, LinkError, Stream},
    wire::cache::{CacheBatch, CacheDown, CacheFollow, CacheParams, CacheUp},
};
use uuid::Uuid;

use super::support::{Cluster, WAIT};

/// Who follows a leader and does what a gateway should.
struct Follower {
    stream: Stream,
    _connection: Arc<dyn Connection>,
    since: Option<u64>,
    held: BTreeSet<u128>,
    batches: u32,
}

impl Follower {
    async fn open(cluster: &Cluster, endpoint: &EndpointRecord, since: Option<u64>) -> Self {
        let connection = cluster.connect(endpoint).await;
        let mut stream = connection.open(Conversation::Cache, WAIT).await.unwrap();
        let epoch = endpoint.info.endpoint.epoch;
        let follow = CacheUp::Follow(CacheFollow { epoch, since });
        stream.sender.send(&follow, WAIT).await.unwrap();
        let mut follower =
            Self { stream, _connection: connection, since, held: BTreeSet::new(), batches: 0 };
        let params = CacheParams {
            endpoint: endpoint.info.endpoint.clone(),
            block_size: endpoint.info.block_size,
            blocks: endpoint.info.num_blocks,
            hashing: Parameters::of(&endpoint.info).digest(),
        };
        assert_eq!(follower.hear().await, CacheDown::Params(params), "as its record says");
        follower
    }

    async fn hear(&mut self) -> CacheDown {
        self.stream.receiver.expect(WAIT).await.unwrap()
    }

    /// Until the leader says that there is nothing more.
    async fn until_still(&mut self) {
        loop {
            match self.hear().await {
                CacheDown::Batch(CacheBatch { seq, cleared, removed, stored, .. }) => {
                    assert_eq!(self.since.replace(seq), Some(seq - 1), "one after the other");
                    self.batches += 1;
                    if cleared {
                        self.held.clear();
                    }
                    assert!(removed.iter().all(|hash| self.held.remove(hash)), "it was held");
                    assert!(stored.iter().all(|hash| self.held.insert(*hash)), "it was not");
                }
                CacheDown::Snapshot(part) => {
                    if part.part == 0 {
                        self.held.clear();
                    }
                    self.held.extend(part.held);
                    self.since = Some(part.seq);
                }
                CacheDown::Still(still) => return assert_eq!(self.since, Some(still.seq)),
                CacheDown::Params(params) => panic!("{params:?} twice"),
            }
        }
    }
}

/// A cluster of one group with this many blocks of four tokens.
async fn serving(blocks: u32) -> (Cluster, super::support::Host, EndpointRecord) {
    let cluster = Cluster::start().await;
    let host = cluster.host(NodeId(Uuid::from_u128(1)), 1).await;
    let flags = EngineFlags {
        block_size: Some(4),
        num_gpu_blocks_override: Some(blocks),
        ..EngineFlags::default()
    };
    cluster.declare("s", &launch("fake:model".into(), "m".into(), flags)).await;
    let endpoint = cluster.endpoint(1).await;
    (cluster, host, endpoint)
}

fn prompt(number: u32) -> Vec<u32> {
    (0..30).map(|at| if at < 8 { at } else { (at * 7 + number * 13) % 97 }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_follow_a_leader_under_churn_know_what_it_holds() {
    let (cluster, _host, endpoint) = serving(24).await;
    let mut first = Follower::open(&cluster, &endpoint, None).await;
    first.until_still().await;
    assert!(first.held.is_empty());
    for round in 0..12 {
        // Three at a time, and one that is given up half way.
        let mut asked = Vec::new();
        for number in 0..3 {
            asked.push(cluster.ask(&endpoint, &prompt(round * 3 + number), 6).await);
        }
        let mut dropped = cluster.ask(&endpoint, &prompt(100 + round), 40).await;
        dropped.chunk().await;
        drop(dropped);
        for asked in asked {
            asked.tokens().await;
        }
    }
    first.until_still().await;
    let mut second = Follower::open(&cluster, &endpoint, None).await;
    second.until_still().await;
    assert_eq!(first.held, second.held, "from batches, and all at once");
    assert!(first.batches > 0, "how many depends on how often it is asked");
    assert!(!first.held.is_empty() && first.held.len() <= 24, "{}", first.held.len());
    // The last prompt is all there: its full blocks, and it is found.
    let chain = Parameters::of(&endpoint.info).chain(None, None);
    let hashes = chain.hash(&prompt(35), 4);
    let held = hashes.iter().take_while(|hash| first.held.contains(hash)).count();
    let chunk = cluster.ask(&endpoint, &prompt(35), 1).await.chunk().await;
    // The last token is always computed, and the end of the prompt may be found beside its blocks.
    let found = chunk.cached_tokens as usize;
    assert!(found / 4 >= held.min(7), "{held} blocks are told of, {found} tokens were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_something_is_told_from_there_and_who_means_another_epoch_is_not() {
    let (cluster, _host, endpoint) = serving(64).await;
    cluster.ask(&endpoint, &prompt(1), 2).await.tokens().await;
    let mut all = Follower::open(&cluster, &endpoint, None).await;
    all.until_still().await;
    cluster.ask(&endpoint, &prompt(2), 2).await.tokens().await;
    all.until_still().await;
    let (known, last) = (all.held.clone(), all.since);
    assert!(last.is_some_and(|last| last >= 2), "{last:?}");
    // Said again in the same conversation: everything from the first batch on.
    let epoch = endpoint.info.endpoint.epoch;
    let follow = CacheUp::Follow(CacheFollow { epoch, since: Some(0) });
    all.stream.sender.send(&follow, WAIT).await.unwrap();
    (all.since, all.held, all.batches) = (Some(0), BTreeSet::new(), 0);
    all.until_still().await;
    assert_eq!((&all.held, all.since), (&known, last));
    assert!(all.batches >= 2);

    let mut other = endpoint.clone();
    other.info.endpoint.epoch.number += 1;
    let connection = cluster.connect(&endpoint).await;
    let mut stream = connection.open(Conversation::Cache, WAIT).await.unwrap();
    let follow = CacheFollow { epoch: other.info.endpoint.epoch, since: None };
    stream.sender.send(&CacheUp::Follow(follow), WAIT).await.unwrap();
    let CacheDown::Params(params) = stream.receiver.expect(WAIT).await.unwrap() else {
        panic!("first it says who it is")
    };
    assert_eq!(params.endpoint, endpoint.info.endpoint);
    let ended = timeout(Duration::from_secs(5), stream.receiver.next::<CacheDown>()).await;
    assert!(matches!(ended, Ok(Ok(None))), "then it ends: {ended:?}");
}

/// Who follows a leader over a network that breaks conversations, and begins again.
struct Lossy {
    link: Arc<dyn Link>,
    endpoint: EndpointRecord,
    since: Option<u64>,
    held: BTreeSet<u128>,
    broke: u32,
    /// How often the leader has said of late that there is nothing.
    still: u32,
}

impl Lossy {
    /// Until the leader has nothing to tell, twice, although all of it is `over`.
    async fn follow(mut self, over: watch::Receiver<bool>) -> Self {
        while self.converse(&over).await.is_err() {
            self.broke += 1;
        }
        self
    }

    async fn converse(&mut self, over: &watch::Receiver<bool>) -> Result<(), LinkError> {
        let peer = self.endpoint.address.parse().unwrap();
        let connection = self.link.connect(&peer, Class::Control, WAIT).await?;
        let mut stream = connection.open(Conversation::Cache, WAIT).await?;
        let follow = CacheFollow { epoch: self.endpoint.info.endpoint.epoch, since: self.since };
        stream.sender.send(&CacheUp::Follow(follow), WAIT).await?;
        let mut filling = BTreeSet::new();
        loop {
            match stream.receiver.expect(WAIT).await? {
                CacheDown::Params(_) => {}
                CacheDown::Batch(CacheBatch { seq, cleared, removed, stored, .. }) => {
                    assert_eq!(self.since.replace(seq), Some(seq - 1), "one after the other");
                    self.still = 0;
                    if cleared {
                        self.held.clear();
                    }
                    assert!(removed.iter().all(|hash| self.held.remove(hash)), "it was held");
                    assert!(stored.iter().all(|hash| self.held.insert(*hash)), "it was not");
                }
                CacheDown::Snapshot(part) => {
                    self.still = 0;
                    filling.extend(part.held);
                    if part.last {
                        (self.since, self.held) = (Some(part.seq), std::mem::take(&mut filling));
                    }
                }
                CacheDown::Still(still) => {
                    assert_eq!(self.since, Some(still.seq), "it was told everything");
                    self.still += u32::from(*over.borrow());
                    if self.still > 1 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_over_a_network_that_breaks_conversations_comes_to_know_all() {
    let mut broke = 0;
    for seed in 0..3 {
        let (cluster, _host, endpoint) = serving(24).await;
        let faults = Faults::new(seed);
        let link = cluster.faulty(&faults);
        faults.set(FaultProfile {
            breaks: 0.1,
            resets: 0.3,
            delay: Duration::ZERO..Duration::from_millis(4),
            ..FaultProfile::default()
        });
        let over = watch::Sender::new(false);
        let (since, held) = (None, BTreeSet::new());
        let lossy = Lossy { link, endpoint: endpoint.clone(), since, held, broke: 0, still: 0 };
        let following = tokio::spawn(lossy.follow(over.subscribe()));
        for round in 0..12 {
            let mut asked = Vec::new();
            for number in 0..3 {
                asked.push(cluster.ask(&endpoint, &prompt(round * 3 + number), 6).await);
            }
            for asked in asked {
                asked.tokens().await;
            }
        }
        over.send_replace(true);
        let lossy = timeout(WAIT, following).await.expect("it comes to an end").unwrap();
        let mut clean = Follower::open(&cluster, &endpoint, None).await;
        clean.until_still().await;
        assert_eq!(lossy.held, clean.held, "seed {seed}");
        broke += lossy.broke;
    }
    assert!(broke > 0, "nothing ever broke");
}
