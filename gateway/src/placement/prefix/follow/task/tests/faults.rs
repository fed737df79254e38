//! A leader's word over a network that loses conversations, delays them and is cut: in the end the
//! index holds what the leader does, whatever came late, twice or never.

use std::collections::BTreeMap;

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use troupe_runtime::{
    id::NodeId,
    transport::{Class, FaultProfile, Faults, Link, LocalNetwork, PeerIdentity, PeerRole, Stream},
    wire::cache::{CacheBatch, CacheSnapshot, CacheStill},
};

use super::{super::*, params};
use crate::placement::{endpoint::tests::info, prefix::namings::Prefixes};

/// Prompts whose blocks come and go, and most blocks of each: as many as `params` has room for.
const PROMPTS: u64 = 8;
const DEPTH: u64 = 8;
/// Batches that the leader remembers: fewer than there are in the longest silence.
const REMEMBERED: usize = 20;
/// Changes, one in some milliseconds.
const CHANGES: u64 = 400;
const SEEDS: u64 = 60;
/// Of virtual time, for what is asked for again.
const WAIT: Duration = Duration::from_secs(60);
const GATEWAY: NodeId = NodeId(uuid::Uuid::from_u128(1));
const LEADER: NodeId = NodeId(uuid::Uuid::from_u128(2));

/// What a leader holds: so many leading blocks of each prompt.
#[derive(Clone, Debug, Default)]
struct Ledger {
    depths: BTreeMap<u64, u64>,
    /// The latest, consecutive.
    batches: Vec<CacheBatch>,
    seq: u64,
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % sides
    }
}

/// Their names are as even as hashes are, which the index relies on.
fn blocks(prompt: u64) -> impl Iterator<Item = u128> {
    const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let name = move |at| {
        let number = u128::from(prompt * DEPTH + at + 1).wrapping_mul(ODD);
        (number ^ number >> 67).wrapping_mul(ODD)
    };
    (0..DEPTH).map(name)
}

impl Ledger {
    /// One prompt has more or fewer blocks than before.
    fn change(&mut self, dice: &mut Dice) {
        let (prompt, to) = (dice.roll(PROMPTS), dice.roll(DEPTH + 1));
        let from = self.depths.insert(prompt, to).unwrap_or(0);
        let between = |a: u64, b: u64| blocks(prompt).take(b as usize).skip(a as usize);
        if from == to {
            return;
        }
        self.seq += 1;
        let mut removed: Vec<_> = between(to, from).collect();
        removed.reverse();
        let stored = between(from, to).collect();
        let epoch = params().endpoint.epoch;
        self.batches.push(CacheBatch { epoch, seq: self.seq, cleared: false, removed, stored });
        let too_many = self.batches.len().saturating_sub(REMEMBERED);
        self.batches.drain(..too_many);
    }

    fn held(&self) -> Vec<u128> {
        let of = |(prompt, depth): (&u64, &u64)| blocks(*prompt).take(*depth as usize);
        self.depths.iter().flat_map(of).collect()
    }

    /// What somebody is told who knows everything up to `since`, and where he is then.
    fn read(&self, since: Option<u64>) -> (Vec<CacheDown>, u64) {
        let next = self.batches.first().map_or(self.seq + 1, |first| first.seq);
        let all = since.filter(|since| since + 1 >= next && *since <= self.seq);
        let downs = match all {
            Some(since) => {
                let news = self.batches.iter().filter(|batch| batch.seq > since).cloned();
                news.map(CacheDown::Batch).collect()
            }
            None => {
                let (epoch, held) = (params().endpoint.epoch, self.held());
                let (seq, part, last) = (self.seq, 0, true);
                vec![CacheDown::Snapshot(CacheSnapshot { epoch, seq, part, last, held })]
            }
        };
        (downs, self.seq)
    }
}

/// A leader's side of one conversation.
async fn tell(mut stream: Stream, mut ledger: watch::Receiver<Ledger>) -> Result<(), LinkError> {
    let CacheUp::Follow(CacheFollow { mut since, .. }) = stream.receiver.expect(WAIT).await?;
    stream.sender.send(&CacheDown::Params(params()), WAIT).await?;
    loop {
        let (downs, seq) = ledger.borrow_and_update().read(since);
        for down in &downs {
            stream.sender.send(down, WAIT).await?;
        }
        since = Some(seq);
        tokio::select! {
            changed = ledger.changed() => if changed.is_err() {
                return Ok(());
            },
            said = stream.receiver.next::<CacheUp>() => match said? {
                Some(CacheUp::Follow(follow)) => since = follow.since,
                None => return Ok(()),
            },
            () = sleep(Duration::from_secs(1)) => {
                let still = CacheStill { epoch: params().endpoint.epoch, seq };
                stream.sender.send(&CacheDown::Still(still), WAIT).await?;
            }
        }
    }
}

/// Answers whoever follows, for as long as there is a link.
async fn lead(link: Arc<dyn Link>, ledger: watch::Receiver<Ledger>) {
    let mut all = tokio::task::JoinSet::new();
    while let Some(connection) = link.accept().await {
        let ledger = ledger.clone();
        all.spawn(async move {
            let mut told = tokio::task::JoinSet::new();
            while let Ok((_, stream)) = connection.accept().await {
                told.spawn(tell(stream, ledger.clone()));
            }
        });
    }
}

/// As a keeper does: connects, and follows for as long as that lasts; what is known is kept.
async fn keep(
    link: Arc<dyn Link>,
    leader: Arc<dyn Link>,
    cached: Arc<Cached>,
    origin: Instant,
) -> Infallible {
    loop {
        let connected = link.connect(&leader.address(), Class::Control, WAIT).await;
        if let Ok(connection) = connected {
            let followed =
                follow(info("m", 0), Arc::clone(&cached), Arc::clone(&connection), origin);
            tokio::select! {
                () = followed => {}
                _ = connection.closed() => {}
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn run(seed: u64) {
    let mut dice = Dice(seed);
    let faults = Faults::new(seed);
    let network = LocalNetwork::new();
    let link = |role, node| -> Arc<dyn Link> {
        let identity = PeerIdentity { cluster: "c".into(), role, node };
        faults.wrap(network.link(identity), node)
    };
    let (gateway, leader) = (link(PeerRole::Gateway, GATEWAY), link(PeerRole::Node, LEADER));
    faults.set(FaultProfile {
        breaks: 0.01,
        resets: 0.03,
        stalls: 0.05,
        stall: Duration::from_millis(900),
        delay: Duration::ZERO..Duration::from_millis(30),
        ..FaultProfile::default()
    });
    let prefixes = Arc::new(Prefixes::default());
    let cached = Arc::new(Cached::new(Arc::clone(&prefixes), &Parameters::of(&info("m", 0))));
    let ledger = watch::Sender::new(Ledger::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(lead(Arc::clone(&leader), ledger.subscribe()));
    let (own, origin) = (Arc::clone(&cached), Instant::now());
    tasks.spawn(async move { match keep(gateway, leader, own, origin).await {} });
    let mut cut_until = None;
    for _ in 0..CHANGES {
        sleep(Duration::from_millis(dice.roll(40))).await;
        ledger.send_modify(|ledger| ledger.change(&mut dice));
        if cut_until.is_none() && dice.roll(60) == 0 {
            faults.partition(GATEWAY, LEADER);
            // Some are so short that nobody is held for dead.
            cut_until = Some(Instant::now() + Duration::from_millis(100 + dice.roll(3000)));
        }
        if cut_until.is_some_and(|until| until <= Instant::now()) {
            faults.repair(GATEWAY, LEADER);
            cut_until = None;
        }
    }
    if let Some(until) = cut_until {
        sleep_until(until).await;
        faults.repair(GATEWAY, LEADER);
    }
    // The faults go on: it comes to know all the same.
    let ledger = ledger.borrow().clone();
    let total = ledger.depths.values().sum::<u64>();
    let known = |prompt: u64| {
        let hashes: Vec<u128> = blocks(prompt).collect();
        u64::from(cached.run(&prefixes.index.runs(&hashes)))
    };
    let equal = || {
        ledger.depths.iter().all(|(prompt, depth)| known(*prompt) == *depth)
            && format!("{cached:?}") == format!("Cached({total} told, 0 believed)")
    };
    let reached = async {
        while !equal() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(WAIT, reached).await.is_err() {
        let is: Vec<_> = (0..PROMPTS).map(known).collect();
        panic!("seed {seed}: {cached:?} {is:?} is known of {:?}", ledger.depths);
    }
}

#[tokio::test(start_paused = true)]
async fn the_index_comes_to_hold_what_the_leader_does() {
    for seed in 0..SEEDS {
        run(seed).await;
    }
}
