//! How far away another host is, how wide the way is, and how far its clock is from ours: what
//! [`super::probe`] answers, asked.
//!
//! Pings go over a control connection, one at a time; the load over a connection for bulk, as hidden
//! states do. Both end after a time of our own, whatever the other side does.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use troupe_runtime::{
    id::NodeId,
    transport::{Class, Connection, Conversation, Link, LinkError, PeerAddr, Stream},
    wire::host::{ProbeDown, ProbeUp, Way},
};

use super::probe::now_us;

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// It is not reached.
    #[error(transparent)]
    Unreached(#[from] LinkError),
    /// Somebody else is.
    #[error("another process of the cluster answers there, {0}")]
    SomebodyElse(NodeId),
    /// What is sent does not come.
    #[error("it answers pings, but takes no load")]
    NoLoad(#[source] LinkError),
}

/// One ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ping {
    rtt_us: u64,
    clock_ahead_us: i64,
}

/// Measures the way to a door where this host has to answer; anybody may if there is none.
///
/// # Errors
/// [`WayError`], after some seconds at the latest.
pub async fn measure(
    link: &dyn Link,
    door: &PeerAddr,
    node: Option<NodeId>,
) -> Result<Way, WayError> {
    let measuring = tokio::time::timeout(LONGEST, way(link, door, node));
    measuring.await.map_err(|_| late("measuring the way", LONGEST))?
}

async fn way(link: &dyn Link, door: &PeerAddr, node: Option<NodeId>) -> Result<Way, WayError> {
    let connection = link.connect(door, Class::Control, CONNECT).await?;
    let found = connection.peer().node;
    if node.is_some_and(|node| node != found) {
        return Err(WayError::SomebodyElse(found));
    }
    let pings = sum_up(ping(&*connection).await?);
    let load = async {
        let connection = link.connect(door, Class::Activations, CONNECT).await?;
        load(&*connection).await
    };
    let (bytes, time) = load.await.map_err(WayError::NoLoad)?;
    Ok(Way { bytes, bytes_us: micros(time), ..pings })
}

/// The first ping, which also opens the stream, counts like the others: the median forgets it.
async fn ping(connection: &dyn Connection) -> Result<Vec<Ping>, LinkError> {
    let mut stream = connection.open(Conversation::Probe(Class::Control), CONNECT).await?;
    let mut pings = Vec::with_capacity(PINGS);
    let began = Instant::now();
    while pings.len() < PINGS && began.elapsed() < PING_TIME {
        let (before, sent) = (now_us(), Instant::now());
        let theirs = match answer(&mut stream, ProbeUp::Ping, PONG).await? {
            ProbeDown::Pong(clock) => clock,
            ProbeDown::Taken(_) => return Err(nonsense()),
        };
        let rtt_us = micros(sent.elapsed());
        let ours = before + rtt_us / 2;
        let ahead = i128::from(theirs) - i128::from(ours);
        let clock_ahead_us = i64::try_from(ahead).unwrap_or(i64::MAX);
        pings.push(Ping { rtt_us, clock_ahead_us });
    }
    stream.sender.finish()?;
    Ok(pings)
}

/// Sends more and more at once until that takes a while, and gives back how much it was then and in
/// which time it came: so a slow way is not filled for minutes, and a wide one is seen as it is.
async fn load(connection: &dyn Connection) -> Result<(u64, Duration), LinkError> {
    let mut stream = connection.open(Conversation::Probe(Class::Activations), CONNECT).await?;
    let piece = Bytes::from(vec![0; PIECE]);
    let (mut pieces, mut sent) = (1, 0);
    loop {
        let began = Instant::now();
        let delivery = async {
            for _ in 0..pieces {
                stream.sender.send_with_tensor(&ProbeUp::Load, piece.clone(), DELIVERY).await?;
            }
            answer(&mut stream, ProbeUp::Taken, DELIVERY).await
        };
        let delivered = tokio::time::timeout(DELIVERY, delivery).await;
        let taken = delivered.map_err(|_| late("delivering what was sent", DELIVERY))??;
        let bytes = (pieces * PIECE) as u64;
        sent += bytes;
        if taken != ProbeDown::Taken(sent) {
            return Err(nonsense());
        }
        let time = began.elapsed();
        if time >= LOAD_TIME || pieces >= MOST_PIECES {
            stream.sender.finish()?;
            return Ok((bytes, time));
        }
        pieces *= GROWTH;
    }
}

async fn answer(
    stream: &mut Stream,
    what: ProbeUp,
    deadline: Duration,
) -> Result<ProbeDown, LinkError> {
    stream.sender.send(&what, deadline).await?;
    stream.receiver.expect(deadline).await
}

/// The shortest ping says most about the clocks: least of it is waiting.
fn sum_up(mut pings: Vec<Ping>) -> Way {
    pings.sort_by_key(|ping| ping.rtt_us);
    let Some(shortest) = pings.first() else { return Way::default() };
    Way {
        rtt_min_us: shortest.rtt_us,
        rtt_median_us: pings[pings.len() / 2].rtt_us,
        clock_ahead_us: shortest.clock_ahead_us,
        ..Way::default()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn late(what: &'static str, deadline: Duration) -> LinkError {
    LinkError::Deadline { what, deadline }
}

fn nonsense() -> LinkError {
    LinkError::Malformed("an answer to another question".into())
}

/// The longest that [`measure`] takes: both connections and streams, the pings, and deliveries of
/// which the last takes by far the longest.
pub(super) const LONGEST: Duration = Duration::from_secs(4 * 3 + 2 + 6);
/// How long a host may take to be reached.
const CONNECT: Duration = Duration::from_secs(3);
/// Enough that half of them meet no hiccup.
const PINGS: usize = 21;
/// Fewer where each takes long.
const PING_TIME: Duration = Duration::from_secs(1);
/// How long an answer to one may take.
const PONG: Duration = Duration::from_secs(1);
/// What is sent first: 1 Mbit/s carries it in two seconds.
const PIECE: usize = 256 << 10;
/// How much more is sent the next time.
const GROWTH: usize = 4;
/// Past 1 GiB in less time than that, the way is not what limits anything.
const MOST_PIECES: usize = 4096;
/// A delivery that takes so long has met the ways of the congestion window.
const LOAD_TIME: Duration = Duration::from_millis(200);
/// How long one may take.
const DELIVERY: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_ping_is_believed_about_the_clock() {
        let ping = |rtt_us, clock_ahead_us| Ping { rtt_us, clock_ahead_us };
        let way = sum_up(vec![ping(900, -300), ping(100, 20), ping(150, 60)]);
        let expected =
            Way { rtt_min_us: 100, rtt_median_us: 150, clock_ahead_us: 20, ..Way::default() };
        assert_eq!(way, expected);
        assert_eq!(sum_up(Vec::new()), Way::default());
    }
}
