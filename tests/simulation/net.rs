//! Lines between processes, and what keeps them from being heard.
//!
//! A line is what a stream is on the real carrier: what is said on it arrives in order and once, or
//! the line breaks. While a direction between two hosts is cut, what is said waits, because the
//! carrier sends it again; whoever has heard nothing for the idle limit gives the line up and says
//! so. Mostly its peer hears that; if not, it hears nothing either from then on, and gives up as
//! long after it. A process that dies says nothing any more; one that ends in order says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    words::{Frame, Purpose, Word},
    world::{Event, HostId, Pid, World},
};

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineId(pub(crate) u64);

/// Which end of a line: 0 has opened it.
type Side = usize;

/// All lines and cuts.
#[derive(Debug, Default)]
pub(crate) struct Net {
    lines: BTreeMap<LineId, Line>,
    opened: u64,
    /// From which host to which nothing comes through, and since which cut.
    cuts: BTreeMap<(HostId, HostId), u64>,
    cut: u64,
    /// Everything takes so many times as long.
    pub(crate) slowness: u32,
    /// So many questions and answers of the store in a thousand are lost.
    pub(crate) loss: u64,
}

#[derive(Debug)]
struct Line {
    ends: [Pid; 2],
    hosts: [HostId; 2],
    open: [bool; 2],
    /// Its other end knows of it.
    established: bool,
    purpose: Purpose,
    /// When what was said last towards each end arrives.
    last: [Duration; 2],
    /// What waits for a cut to be over, towards each end.
    held: [VecDeque<Letter>; 2],
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    Open,
    Frame(Frame),
}

/// What happens to lines.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// Something arrives at an end.
    Arrives(LineId, Side, Letter),
    /// An end has heard nothing for so long, if it still has not.
    Silent(LineId, Side),
    /// A line that was opened should be there.
    DialLate(LineId),
    /// A process has stood still for so long, if it still does.
    Frozen(Pid, u32),
    /// A cut has lasted for so long, if it still does.
    CutLasts(u64),
}

/// After so long without a word a line is given up.
pub(crate) const IDLE: Duration = Duration::from_millis(1500);

// === impl World ===

impl World {
    /// Opens a line to a process; if it does not stand within the deadline it is over.
    pub(crate) fn dial(
        &mut self,
        me: Pid,
        to: Pid,
        purpose: Purpose,
        deadline: Duration,
    ) -> LineId {
        self.net.opened += 1;
        let id = LineId(self.net.opened);
        let hosts = [self.host_of(me), self.host_of(to)];
        self.net.lines.insert(
            id,
            Line {
                ends: [me, to],
                hosts,
                open: [true, true],
                established: false,
                purpose,
                last: [self.now; 2],
                held: Default::default(),
            },
        );
        self.post(id, 1, Letter::Open);
        self.net_event_in(deadline, NetEvent::DialLate(id));
        id
    }

    /// Says something on a line; nobody hears it on one that is over.
    pub(crate) fn say(&mut self, me: Pid, line: LineId, frame: Frame) {
        if let Some(side) = self.net.side_of(line, me) {
            self.post(line, 1 - side, Letter::Frame(frame));
        }
    }

    /// Ends a line in order: what was said before arrives before the end does.
    pub(crate) fn hang_up(&mut self, me: Pid, line: LineId, why: &str) {
        let Some(side) = self.net.side_of(line, me) else { return };
        self.post(line, 1 - side, Letter::Frame(Frame::Bye(why.to_owned())));
        if let Some(line) = self.net.lines.get_mut(&line) {
            line.open[side] = false;
        }
    }

    /// The lines of a process.
    pub(crate) fn lines_of(&self, pid: Pid) -> Vec<LineId> {
        let mine = |(_, line): &(&LineId, &Line)| {
            (0..2).any(|side| line.ends[side] == pid && line.open[side])
        };
        self.net.lines.iter().filter(mine).map(|(id, _)| *id).collect()
    }

    /// A process has died: its peers hear nothing any more.
    pub(crate) fn lines_fall_silent(&mut self, pid: Pid) {
        for id in self.lines_of(pid) {
            let Some(side) = self.net.side_of(id, pid) else { continue };
            if let Some(line) = self.net.lines.get_mut(&id) {
                line.open[side] = false;
                line.held[1 - side].clear();
            }
            self.net_event_in(IDLE, NetEvent::Silent(id, 1 - side));
        }
    }

    /// A process is frozen: its peers give it up, and it learns that when it wakes.
    fn lines_freeze(&mut self, pid: Pid) {
        for id in self.lines_of(pid) {
            let Some(side) = self.net.side_of(id, pid) else { continue };
            self.over(id, 1 - side, "the connection was silent");
            self.over(id, side, "the connection was silent");
        }
    }

    /// From now on nothing comes from one host to the other.
    pub(crate) fn cut(&mut self, from: HostId, to: HostId) {
        if self.net.is_cut(from, to) {
            return;
        }
        self.net.cut += 1;
        self.net.cuts.insert((from, to), self.net.cut);
        self.net_event_in(IDLE, NetEvent::CutLasts(self.net.cut));
    }

    /// It does again.
    pub(crate) fn heal(&mut self, from: HostId, to: HostId) {
        if self.net.cuts.remove(&(from, to)).is_none() {
            return;
        }
        let across: Vec<_> = self.net.across(from, to);
        for (id, side) in across {
            let Some(line) = self.net.lines.get_mut(&id) else { continue };
            for letter in std::mem::take(&mut line.held[side]) {
                self.post(id, side, letter);
            }
        }
    }

    /// Whether a word gets from one host to the other now.
    pub(crate) fn hears(&self, from: HostId, to: HostId) -> bool {
        !self.net.is_cut(from, to)
    }

    /// How long a word takes between two hosts.
    pub(crate) fn delay(&mut self, from: HostId, to: HostId) -> Duration {
        let (low, high) = match from == to {
            true => (20, 200),
            false => (150, 1500),
        };
        let micros = self.dice.between(low, high) * u64::from(self.net.slowness.max(1));
        Duration::from_micros(micros) * self.slow_factor(from).max(self.slow_factor(to))
    }

    pub(crate) fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Arrives(id, side, letter) => self.arrives(id, side, letter),
            NetEvent::Silent(id, side) => self.over(id, side, "the connection was silent"),
            NetEvent::DialLate(id) => {
                let late = self.net.lines.get(&id).is_some_and(|line| !line.established);
                if late {
                    self.over(id, 0, "nobody answered in time");
                }
            }
            NetEvent::Frozen(pid, freezes) => {
                if self.is_frozen_since(pid, freezes) {
                    self.lines_freeze(pid);
                }
            }
            NetEvent::CutLasts(cut) => {
                let between = self.net.cuts.iter().find(|(_, since)| **since == cut);
                let Some((&(from, to), _)) = between else { return };
                for (id, side) in self.net.across(from, to) {
                    // Where it is cut too, this waits for ever.
                    if self.dice.chance(750) {
                        let bye = Frame::Bye("the peer hears nothing".to_owned());
                        self.post(id, 1 - side, Letter::Frame(bye));
                    }
                    self.over(id, side, "the connection was silent");
                    self.net_event_in(IDLE, NetEvent::Silent(id, 1 - side));
                }
            }
        }
        self.net.lines.retain(|_, line| line.open != [false, false]);
    }

    fn arrives(&mut self, id: LineId, side: Side, letter: Letter) {
        let Some(line) = self.net.lines.get_mut(&id).filter(|line| line.open[side]) else { return };
        let to = line.ends[side];
        match letter {
            Letter::Open => {
                let (purpose, hosts) = (line.purpose.clone(), line.hosts);
                if !self.lives(to) {
                    return;
                }
                let heard = self.hears(hosts[1], hosts[0]);
                if let Some(line) = self.net.lines.get_mut(&id) {
                    line.established = heard;
                }
                self.give(to, Word::Opened(id, purpose));
            }
            Letter::Frame(Frame::Bye(why)) => self.over(id, side, &why),
            Letter::Frame(frame) => self.give(to, Word::Said(id, frame)),
        }
    }

    /// An end learns that the line is over.
    fn over(&mut self, id: LineId, side: Side, why: &str) {
        let Some(line) = self.net.lines.get_mut(&id).filter(|line| line.open[side]) else { return };
        line.open[side] = false;
        line.held[1 - side].clear();
        let to = line.ends[side];
        self.give(to, Word::Over(id, why.to_owned()));
    }

    fn post(&mut self, id: LineId, to: Side, letter: Letter) {
        let Some(line) = self.net.lines.get(&id) else { return };
        let (from_host, to_host) = (line.hosts[1 - to], line.hosts[to]);
        let delay = self.delay(from_host, to_host);
        let cut = self.net.is_cut(from_host, to_host);
        let now = self.now;
        let Some(line) = self.net.lines.get_mut(&id) else { return };
        if cut || !line.held[to].is_empty() {
            line.held[to].push_back(letter);
            return;
        }
        let at = (now + delay).max(line.last[to] + Duration::from_nanos(1));
        line.last[to] = at;
        self.enter_at(at, Event::Net(NetEvent::Arrives(id, to, letter)));
    }

    fn net_event_in(&mut self, after: Duration, event: NetEvent) {
        self.enter_at(self.now + after, Event::Net(event));
    }
}

// === impl Net ===

impl Net {
    fn side_of(&self, line: LineId, pid: Pid) -> Option<Side> {
        let line = self.lines.get(&line)?;
        (0..2).find(|side| line.ends[*side] == pid && line.open[*side])
    }

    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    /// Lines over which something would have to come from one host to another, with the end there.
    fn across(&self, from: HostId, to: HostId) -> Vec<(LineId, Side)> {
        let ends = self.lines.iter().flat_map(|(id, line)| {
            let sides =
                (0..2).filter(move |side| line.hosts[1 - side] == from && line.hosts[*side] == to);
            sides.map(move |side| (*id, side))
        });
        ends.collect()
    }

    /// Every direction that is cut.
    pub(crate) fn all_cuts(&self) -> BTreeSet<(HostId, HostId)> {
        self.cuts.keys().copied().collect()
    }
}
