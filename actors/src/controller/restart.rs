//! What the end of a group's incarnation means: formed anew at once, later, or not any more.
//!
//! An incarnation whose host was lost or restarted is not the group's fault: it is formed anew at
//! once and nothing is counted. One whose member ended by itself is a failure. The first in a row
//! is answered at once, each further one after twice the wait of the one before, and after too many
//! the group is given up until its service changes or a person asks for a restart: a specification
//! that can never work costs a handful of starts and not one every second for ever. A row ends when
//! a group has served for a while.

use std::{collections::BTreeSet, time::Duration};

use troupe_runtime::{
    discovery::directory::{GroupRecord, MemberState},
    id::{Epoch, NodeId},
    spec::policy::{GroupPolicy, RestartPolicy},
    wire::member::Fault,
};

use super::hosts::Hosts;

/// A group's failures in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    /// How many.
    pub(super) failed: u32,
    /// The last: what happened.
    pub(super) reason: String,
    /// Not before this it is formed anew.
    pub(super) not_before: Duration,
    /// It is not formed anew any more.
    pub(super) given_up: bool,
    /// Hosts on which a member was the first to end, of late.
    pub(super) blamed: BTreeSet<NodeId>,
    /// The incarnation whose end was counted last.
    counted: Epoch,
    ready_since: Option<Duration>,
}

/// How a group's incarnation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Its members start, find each other and load.
    Starting,
    /// It serves.
    Ready,
    /// It is over, and whether by its own doing.
    Over(Over),
}

/// Why an incarnation is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// For people.
    pub(super) why: String,
    /// The host of the member that ended, if one ended by itself; of several the one that the
    /// leader blames.
    pub(super) ended_on: Option<NodeId>,
    /// What was wrong with that one, if it was the host's fault rather than the model's.
    pub(super) fault: Option<Fault>,
    /// Whether a member has yet to say that it started.
    pub(super) still_starting: bool,
}

/// What to do about an incarnation that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Form it anew.
    Again,
    /// Not before this.
    Wait(Duration),
    /// Not while members have yet to start.
    Later,
    /// No more.
    GiveUp(String),
}

/// How an incarnation is.
pub(super) fn health(hosts: &Hosts, record: &GroupRecord) -> Health {
    let mut over = None;
    let mut still_starting = false;
    for (index, member) in record.members.iter().enumerate() {
        let state = hosts.state(record, index);
        let (why, ended_on) = match hosts.host(member.node) {
            None => (format!("the host of member {index} is gone"), None),
            Some(host) if host.record.process != member.process => {
                let name = &host.record.name;
                (format!("host {name} of member {index} was restarted"), None)
            }
            Some(host) => match state {
                Some(MemberState::Exited(cause)) => {
                    let name = &host.record.name;
                    // A host that is leaving ends its members: that is no failure of theirs.
                    let ended_on = (!host.record.leaving).then_some(member.node);
                    (format!("member {index} on {name} ended: {cause}"), ended_on)
                }
                Some(MemberState::Listening | MemberState::Ready) => continue,
                Some(MemberState::Starting) | None => {
                    still_starting = true;
                    continue;
                }
            },
        };
        over.get_or_insert((why, ended_on));
    }
    // A leader says what it is before anybody has ended of it. A host that is gone says more.
    if over.as_ref().is_none_or(|(_, ended_on)| ended_on.is_some())
        && let Some((node, fault, why)) = blamed(hosts, record)
    {
        let fault = (fault != Fault::Ended).then_some(fault);
        return Health::Over(Over { why, ended_on: Some(node), fault, still_starting });
    }
    match over {
        Some((why, ended_on)) => Health::Over(Over { why, ended_on, fault: None, still_starting }),
        None if hosts.state(record, 0) == Some(&MemberState::Ready) => Health::Ready,
        None => Health::Starting,
    }
}

/// Whom the leader blames for the end: which host, what was wrong there, and that for people. What
/// the member itself has said of its end tells more than that it is lost.
fn blamed(hosts: &Hosts, record: &GroupRecord) -> Option<(NodeId, Fault, String)> {
    let blame = hosts.member(record, 0)?.blames.as_ref()?;
    let index = blame.member as usize;
    let node = record.members.get(index)?.node;
    let host = hosts.host(node).filter(|host| !host.record.leaving)?;
    let name = &host.record.name;
    let why = match hosts.state(record, index) {
        Some(MemberState::Exited(cause)) if blame.fault == Fault::Ended => {
            format!("member {index} on {name} ended: {cause}")
        }
        _ => format!("member {index} on {name}: {}", blame.why),
    };
    Some((node, blame.fault, why))
}

// === impl Attempts ===

impl Attempts {
    /// What another controller has stored of them.
    pub(super) fn recalled(failed: u32, given_up: bool, reason: String) -> Self {
        Self { failed, given_up, reason, ..Self::default() }
    }

    /// It serves: after a while that ends the row. Says when to look again.
    pub(super) fn serves(&mut self, now: Duration) -> Option<Duration> {
        let since = *self.ready_since.get_or_insert(now);
        self.reason.clear();
        if self.failed == 0 {
            return None;
        }
        if now.saturating_sub(since) >= STABLE {
            *self = Self { counted: self.counted, ready_since: Some(since), ..Self::default() };
            return None;
        }
        Some(since + STABLE)
    }

    /// Its incarnation is over.
    pub(super) fn over(
        &mut self,
        now: Duration,
        (epoch, over): (Epoch, &Over),
        policy: &GroupPolicy,
    ) -> Verdict {
        let served_well = self.ready_since.is_some_and(|since| now.saturating_sub(since) >= STABLE);
        if self.counted != epoch {
            self.counted = epoch;
            if served_well {
                self.failed = 0;
                self.blamed.clear();
            }
            self.ready_since = None;
            self.reason.clone_from(&over.why);
            if let Some(node) = over.ended_on {
                self.failed += 1;
                self.blamed.insert(node);
                self.not_before = now + policy.wait(self.failed);
            }
        }
        if over.ended_on.is_some() {
            match policy.restart {
                RestartPolicy::None => {
                    return self.give_up("its restart policy is None");
                }
                RestartPolicy::RecreateGroupAfterStart if over.still_starting => {
                    return Verdict::Later;
                }
                RestartPolicy::RecreateGroupAfterStart
                | RestartPolicy::RecreateGroupOnPodRestart => {}
            }
            if policy.max_restarts.is_some_and(|most| self.failed > most) {
                let why = format!("it failed {} times in a row", self.failed);
                return self.give_up(&why);
            }
        }
        if now < self.not_before { Verdict::Wait(self.not_before) } else { Verdict::Again }
    }

    /// Hosts to take last: those where members ended again and again.
    pub(super) fn avoid(&self) -> BTreeSet<NodeId> {
        if self.failed >= 2 { self.blamed.clone() } else { BTreeSet::new() }
    }

    fn give_up(&mut self, why: &str) -> Verdict {
        self.given_up = true;
        self.reason = format!("{} ({why})", self.reason);
        Verdict::GiveUp(self.reason.clone())
    }
}

/// How long a group has to serve for its failures to be forgotten.
const STABLE: Duration = Duration::from_secs(60);
