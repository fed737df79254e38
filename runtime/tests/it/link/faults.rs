//! Faults on purpose: what they do to conversations, and that a seed repeats them.

use tokio::time::timeout;
use troupe_runtime::transport::{Conversation, FaultProfile, LinkError, Stream};

use super::*;

/// A network of two under faults, whose hosts give each other up soon.
struct Net {
    faults: Faults,
    pair: Pair,
}

impl Net {
    fn new(seed: u64, profile: FaultProfile) -> Self {
        let inner = local(PeerRole::Node, PeerRole::Node);
        let faults = Faults::new(seed);
        faults.set(profile);
        let (a, b) = (faults.wrap(inner.a, node(1)), faults.wrap(inner.b, node(2)));
        Self { pair: Pair { a, b, _keep: Box::new(()) }, faults }
    }
}

/// Another conversation on a connection.
async fn open(connected: &Connected) -> (Stream, Stream) {
    let opened = connected.at_a.open(Conversation::Generate, LONG).await.unwrap();
    let (_, accepted) = timeout(LONG, connected.at_b.accept()).await.unwrap().unwrap();
    (opened, accepted)
}

fn soon() -> FaultProfile {
    FaultProfile { silence: Duration::from_millis(100), ..FaultProfile::default() }
}

fn patient() -> FaultProfile {
    FaultProfile { silence: Duration::from_secs(3600), ..FaultProfile::default() }
}

#[tokio::test]
async fn what_a_short_partition_holds_arrives_after_it() {
    let net = Net::new(1, patient());
    let connected = net.pair.connect(Class::Control).await;
    let (mut here, mut there) = open(&connected).await;
    net.faults.partition(node(1), node(2));
    here.sender.send(&numbered(1), LONG).await.unwrap();
    let held = timeout(Duration::from_millis(50), there.receiver.next::<GenerateUp>()).await;
    assert!(held.is_err(), "a frame crossed a partition: {held:?}");
    let (address, limit) = (net.pair.b.address(), Duration::from_millis(50));
    let nobody = net.pair.a.connect(&address, Class::Kv, limit).await;
    assert!(matches!(nobody, Err(LinkError::Deadline { .. })), "{nobody:?}");
    net.faults.repair(node(1), node(2));
    assert_eq!(number_of(&there.receiver.expect(LONG).await.unwrap()), 1);
}

#[tokio::test]
async fn a_long_partition_ends_connections_on_both_sides_and_for_good() {
    let net = Net::new(1, soon());
    let connected = net.pair.connect(Class::Control).await;
    let (mut here, mut there) = open(&connected).await;
    net.faults.partition_one_way(node(1), node(2));
    for receiver in [&mut here.receiver, &mut there.receiver] {
        let error = timeout(LONG, receiver.next::<GenerateUp>()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
    net.faults.repair(node(1), node(2));
    let error = here.sender.send(&numbered(1), LONG).await.unwrap_err();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
    let again = net.pair.connect(Class::Control).await;
    let (mut here, mut there) = open(&again).await;
    here.sender.send(&numbered(2), LONG).await.unwrap();
    assert_eq!(number_of(&there.receiver.expect(LONG).await.unwrap()), 2);
}

#[tokio::test]
async fn a_crash_is_known_at_once_at_home_and_by_silence_elsewhere() {
    let net = Net::new(1, soon());
    let connected = net.pair.connect(Class::Control).await;
    net.faults.crash(node(2));
    let error = timeout(LONG, connected.at_b.closed()).await.unwrap();
    assert!(error.to_string().contains("this process crashed"), "{error}");
    let error = timeout(LONG, connected.at_a.closed()).await.unwrap();
    assert!(error.to_string().contains("does not answer"), "{error}");
    net.faults.revive(node(2));
    let error = timeout(LONG, connected.at_a.closed()).await.unwrap();
    assert!(error.to_string().contains("restarted"), "{error}");
    let again = net.pair.connect(Class::Control).await;
    open(&again).await;
}

/// Sends on several conversations at once and tells in which order frames arrived, and how each
/// conversation ended.
async fn trace(seed: u64, profile: FaultProfile) -> (Vec<(u32, u32)>, Vec<String>) {
    const STREAMS: u32 = 6;
    const FRAMES: u32 = 20;
    let net = Net::new(seed, profile);
    let connected = net.pair.connect(Class::Control).await;
    let (arrive, mut arrived) = tokio::sync::mpsc::channel(256);
    let mut ends = Vec::new();
    let mut senders = Vec::new();
    for stream in 0..STREAMS {
        let (mut here, mut there) = open(&connected).await;
        let arrive = arrive.clone();
        senders.push(tokio::spawn(async move {
            for frame in 0..FRAMES {
                if here.sender.send(&numbered(frame), LONG).await.is_err() {
                    return here;
                }
            }
            let _ = here.sender.finish();
            here
        }));
        ends.push(tokio::spawn(async move {
            loop {
                match there.receiver.next::<GenerateUp>().await {
                    Ok(Some(message)) => arrive.send((stream, number_of(&message))).await.unwrap(),
                    Ok(None) => return "end".to_owned(),
                    Err(error) => return error.to_string(),
                }
            }
        }));
    }
    drop(arrive);
    let mut order = Vec::new();
    while let Some(arrival) = timeout(LONG, arrived.recv()).await.unwrap() {
        order.push(arrival);
    }
    let mut how = Vec::new();
    for end in ends {
        how.push(end.await.unwrap());
    }
    for sender in senders {
        drop(sender.await.unwrap());
    }
    (order, how)
}

#[tokio::test]
async fn delays_reorder_conversations_but_never_one_of_them() {
    let delay = Duration::ZERO..Duration::from_millis(3);
    let (order, how) = trace(3, FaultProfile { delay, ..patient() }).await;
    assert!(how.iter().all(|end| end == "end"), "{how:?}");
    for stream in 0..6 {
        let own: Vec<u32> = order.iter().filter(|(s, _)| *s == stream).map(|(_, f)| *f).collect();
        assert_eq!(own, (0..20).collect::<Vec<_>>());
    }
    let overtaken = order.windows(2).filter(|pair| pair[0].1 > pair[1].1).count();
    assert!(overtaken > 0, "no conversation overtook another");
}

#[tokio::test]
async fn a_seed_repeats_its_resets_and_another_differs() {
    let profile = FaultProfile { resets: 0.1, ..patient() };
    let fates = async |seed| {
        let (mut order, how) = trace(seed, profile.clone()).await;
        order.sort_unstable();
        (order, how)
    };
    let first = fates(11).await;
    assert!(first.1.iter().any(|end| end.contains("dropped")), "nothing was reset: {:?}", first.1);
    assert_eq!(first, fates(11).await);
    assert_ne!(first, fates(12).await);
}

#[tokio::test]
async fn a_broken_connection_is_over_for_both() {
    let net = Net::new(1, FaultProfile { breaks: 1.0, ..patient() });
    let connected = net.pair.connect(Class::Control).await;
    let (mut here, mut there) = open(&connected).await;
    here.sender.send(&numbered(1), LONG).await.unwrap();
    let error = there.receiver.expect::<GenerateUp>(LONG).await.unwrap_err();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
    timeout(LONG, connected.at_a.closed()).await.unwrap();
}
