//! One run of one fault: from a whole cluster under load, through the fault, to a whole cluster
//! again, and what of it the clients saw.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    faults::{Fault, Played},
    load::{Asked, Load},
    signs::Marks,
};

/// What came of one run.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// From the fault until the cluster named it; nothing if it did not.
    pub(crate) noticed: Option<Duration>,
    /// What it said.
    pub(crate) said: String,
    /// The longest that a client waited for a token from then on.
    pub(crate) next_token: Duration,
    /// The longest that a client waited for a token from the fault on.
    pub(crate) wait: Duration,
    /// Requests that were under way at some time from the fault on until all was right again.
    pub(crate) requests: usize,
    /// How those that failed did.
    pub(crate) lost: Vec<String>,
    /// Those that broke off because their own gateway was killed.
    pub(crate) cut: usize,
    /// Tokens that were others.
    pub(crate) wrong: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { noticed, said, next_token, wait, requests, lost, cut, wrong } = self;
        write!(
            f,
            "noticed {noticed:.3?}, next token {next_token:.3?}, longest wait {wait:.3?}, \
             {requests} requests, {cut} cut, lost {lost:?}, {wrong} wrong tokens; {said}"
        )
    }
}

/// Plays a fault once.
///
/// # Errors
/// Why it cannot be played here, or what did not become right again.
pub(crate) fn run(
    cluster: &mut Cluster,
    load: &Load,
    fault: &Fault,
    turn: usize,
) -> Result<Figures, String> {
    within("everything serves before the fault", || cluster.is_whole())?;
    // Every client has been answered since the last one.
    load.take();
    let marks = Marks::now(cluster);
    let mut played = (fault.play)(cluster, turn)?;
    let mend = std::mem::replace(&mut played.mend, Box::new(|_| {}));
    let (began, clock) = played.at;
    let first = |cluster: &Cluster| marks.first(cluster, &played.signs, clock);
    let stays_until = began + played.stays;
    // What nobody notices is put right all the same.
    let patience =
        if played.signs.is_empty() { stays_until } else { began + NOTICING.max(played.stays) };
    let told = || played.stays > Duration::ZERO || first(cluster).is_some();
    while Instant::now() < patience {
        let stayed = Instant::now() >= stays_until;
        if stayed && told() && load.answered_since(began) {
            break;
        }
        pause();
    }
    let told = within("every client is answered during the fault", || load.answered_since(began));
    // Who is started anew has a new log.
    let sign = first(cluster);
    mend(cluster);
    told?;
    within("everything serves again", || cluster.is_whole())?;
    let mended = Instant::now();
    within("every client is answered after the fault", || load.answered_since(mended))?;
    let sign = sign.or_else(|| marks.first(cluster, &played.signs, clock));
    Ok(figures(&load.take(), &played, sign))
}

fn figures(all: &[Asked], played: &Played, sign: Option<(SystemTime, String)>) -> Figures {
    let (began, clock) = played.at;
    let asked: Vec<_> = all.iter().filter(|asked| asked.ended > began).collect();
    let failed = asked.iter().copied().filter(|asked| asked.failed.is_some());
    let (cut, lost): (Vec<&Asked>, Vec<&Asked>) =
        failed.partition(|asked| played.gateway == Some(asked.gateway));
    let broke = cut.iter().map(|asked| asked.ended - began).max();
    let noticed = match sign.as_ref().map(|(at, _)| at.duration_since(clock).unwrap_or_default()) {
        Some(noticed) => Some(noticed),
        None => broke,
    };
    let waits: Vec<_> = asked.iter().flat_map(|asked| waits(asked)).collect();
    let longest_from = |from: Instant| {
        let waiting = waits.iter().filter(|(_, end)| *end > from);
        waiting.map(|(start, end)| *end - (*start).max(from)).max().unwrap_or_default()
    };
    let why = |asked: &&Asked| {
        let told = asked.told.len();
        let why = asked.failed.as_deref().unwrap_or_default();
        format!("client {} after {told} tokens: {why}", asked.client)
    };
    Figures {
        noticed,
        said: sign.map(|(_, said)| said).unwrap_or_default(),
        next_token: noticed.map(|noticed| longest_from(began + noticed)).unwrap_or_default(),
        wait: longest_from(began),
        requests: asked.len(),
        lost: lost.iter().map(why).collect(),
        cut: cut.len(),
        wrong: asked.iter().map(|asked| asked.wrong).sum(),
    }
}

/// When a client began to wait for a token, and when one came or the request was over.
fn waits(asked: &Asked) -> Vec<(Instant, Instant)> {
    let ends = asked.told.iter().copied().chain(asked.failed.as_ref().map(|_| asked.ended));
    let mut start = asked.asked;
    ends.map(|end| (std::mem::replace(&mut start, end), end)).collect()
}

fn within(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("not within {PATIENCE:?}: {what}"));
        }
        pause();
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "spaces looks at other processes, with a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Longer than anything takes to be noticed.
const NOTICING: Duration = Duration::from_secs(10);
/// Longer than a cluster takes to be whole again.
const PATIENCE: Duration = Duration::from_secs(90);
