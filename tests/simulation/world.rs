//! One queue of events, one clock, and the processes that they happen to.
//!
//! Events are handled one after the other, in the order of their times and, of equal times, in the
//! order in which they were entered. Whatever a process does in answer it does through the world:
//! it says something on a line, asks for a time, asks the store. So a run is a function of its
//! seed, and a hash over every event that was handled is its fingerprint.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use troupe_runtime::{
    discovery::{
        RegistryError,
        keys::Keys,
        rehearsal::{Ask, StoreCore},
    },
    id::NodeId,
};

use super::{
    check::Checks,
    client::Client,
    control::Control,
    dice::Dice,
    faults::{self, Fault, Sabotage},
    gateway::{Beliefs, Gateway},
    member::Member,
    net::{IDLE, Net, NetEvent},
    node::Node,
    scenario::Service,
    store::Store,
    words::{Timer, Word},
};

/// A process, for ever: no two have the same.
pub(crate) type Pid = u32;
/// A host's place among [`World::hosts`].
pub(crate) type HostId = usize;

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) dice: Dice,
    pub(crate) net: Net,
    pub(crate) hosts: Vec<Host>,
    pub(crate) keys: Keys,
    pub(crate) check: Checks,
    pub(crate) sabotage: Sabotage,
    /// What the store held lately, the oldest first.
    pub(crate) backups: VecDeque<StoreCore>,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    /// What is declared.
    pub(crate) service: Service,
    /// What has gone wrong so far, by kind.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    queue: BTreeMap<(Duration, u64), Event>,
    entered: u64,
    slots: BTreeMap<Pid, Slot>,
    started: Pid,
    asked: u64,
    trace: u64,
    handled: u64,
    /// Print every event.
    pub(crate) loud: bool,
}

/// What happens next.
#[derive(Debug)]
pub(crate) enum Event {
    Word(Pid, Word),
    Net(NetEvent),
    Fault(Fault),
}

/// A host, with what outlives its processes.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) node: Option<NodeId>,
    pub(crate) devices: u32,
    /// What is to run there.
    pub(crate) runs: Option<Kind>,
    /// Everything takes so many times as long here.
    pub(crate) slow: u32,
    /// Its wall clock is ahead by this.
    pub(crate) skew: Duration,
    /// The highest epochs that its node has seen.
    pub(crate) epochs: BTreeMap<String, u64>,
    /// What its gateway believed last.
    pub(crate) beliefs: Beliefs,
    /// What its store holds while its process is away.
    pub(crate) data: StoreCore,
}

struct Slot {
    host: HostId,
    /// None while it handles something.
    role: Option<Role>,
    /// It has been told to begin, which comes before everything else.
    begun: bool,
    frozen: bool,
    /// How often it was frozen.
    freezes: u32,
    /// What happened to it meanwhile.
    backlog: VecDeque<Word>,
    parent: Option<Pid>,
}

/// What a process is.
pub(crate) enum Role {
    Store(Box<Store>),
    Control(Box<Control>),
    Node(Box<Node>),
    Member(Box<Member>),
    Gateway(Box<Gateway>),
    Client(Box<Client>),
}

/// What a process is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Store,
    Control,
    Node,
    Member,
    Gateway,
    Client,
}

/// Where the store runs.
pub(crate) const STORE: HostId = 0;
/// Where clients run.
pub(crate) const CLIENTS: HostId = 1;

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64, hosts: Vec<Host>, service: Service, sabotage: Sabotage) -> Self {
        Self {
            now: Duration::from_secs(1000),
            dice: Dice::new(seed),
            net: Net::default(),
            hosts,
            keys: Keys::new("simulated"),
            check: Checks::default(),
            sabotage,
            backups: VecDeque::new(),
            calm: false,
            service,
            faults: BTreeMap::new(),
            queue: BTreeMap::new(),
            entered: 0,
            slots: BTreeMap::new(),
            started: 0,
            asked: 0,
            trace: seed,
            handled: 0,
            loud: false,
        }
    }

    /// Lets the next event happen; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.handled += 1;
        if let (true, Event::Fault(fault)) = (self.loud, &event) {
            eprintln!("{at:>12?} {fault:?}");
        }
        match event {
            Event::Word(pid, word) => self.give(pid, word),
            Event::Net(event) => self.net_event(event),
            Event::Fault(fault) => faults::happen(self, fault),
        }
        true
    }

    /// When the next event is.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// The fingerprint of everything that has happened, and how much that was.
    pub(crate) fn trace(&self) -> (u64, u64) {
        (self.trace, self.handled)
    }

    pub(crate) fn enter_at(&mut self, at: Duration, event: Event) {
        self.queue.insert((at.max(self.now), self.entered), event);
        self.entered += 1;
    }

    /// Something happens to a process in a while.
    pub(crate) fn enter(&mut self, after: Duration, pid: Pid, word: Word) {
        self.enter_at(self.now + after, Event::Word(pid, word));
    }

    /// A process wants to be told when so much time has passed.
    pub(crate) fn timer(&mut self, me: Pid, after: Duration, timer: Timer) {
        self.enter(after, me, Word::Timer(timer));
    }

    /// Something happens to a process now.
    pub(crate) fn give(&mut self, pid: Pid, word: Word) {
        let Some(slot) = self.slots.get_mut(&pid) else { return };
        slot.begun |= matches!(word, Word::Begin) && !slot.frozen;
        let hears = slot.begun && !slot.frozen;
        let Some(mut role) = slot.role.take_if(|_| hears) else {
            slot.backlog.push_back(word);
            return;
        };
        for mark in [self.now.as_nanos() as u64, u64::from(pid), word.mark(), self.dice.state()] {
            self.trace = (self.trace ^ mark).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        if self.loud {
            // What the store holds is printed when it changes.
            let word = format!("{word:?}").replace(", value: [", ", value: [..");
            let short: String = word.chars().take(300).collect();
            eprintln!("{:>12?} {pid} {:?} {short}", self.now, role.kind());
        }
        role.handle(self, pid, word);
        if let Some(slot) = self.slots.get_mut(&pid) {
            slot.role = Some(role);
            // What it did may have come back to it at once.
            for word in std::mem::take(&mut slot.backlog) {
                self.enter(Duration::ZERO, pid, word);
            }
        }
    }

    /// Starts a process; it begins after so long.
    pub(crate) fn spawn(
        &mut self,
        host: HostId,
        parent: Option<Pid>,
        after: Duration,
        role: Role,
    ) -> Pid {
        self.started += 1;
        let pid = self.started;
        let backlog = VecDeque::new();
        let slot = Slot {
            host,
            role: Some(role),
            begun: false,
            frozen: false,
            freezes: 0,
            backlog,
            parent,
        };
        self.slots.insert(pid, slot);
        self.enter(after, pid, Word::Begin);
        pid
    }

    /// A process is no more: what it had said arrives, but nobody hears that it is gone.
    pub(crate) fn kill(&mut self, pid: Pid, how: &str) {
        self.lines_fall_silent(pid);
        let Some(slot) = self.slots.remove(&pid) else { return };
        if let Some(Role::Store(store)) = slot.role {
            self.hosts[slot.host].data = store.into_data();
        }
        if let Some(parent) = slot.parent {
            self.enter(REAPED, parent, Word::Ended(pid, how.to_owned()));
        }
        let children: Vec<Pid> =
            self.slots.iter().filter(|(_, s)| s.parent == Some(pid)).map(|(p, _)| *p).collect();
        for child in children {
            self.enter(PIPE, child, Word::Orphaned);
        }
    }

    /// A process ends itself: its peers are told.
    pub(crate) fn exit(&mut self, me: Pid, why: &str) {
        for line in self.lines_of(me) {
            self.hang_up(me, line, why);
        }
        self.kill(me, why);
    }

    /// A process stands still; what happens to it waits.
    pub(crate) fn freeze(&mut self, pid: Pid) {
        let Some(slot) = self.slots.get_mut(&pid) else { return };
        slot.frozen = true;
        slot.freezes += 1;
        let event = NetEvent::Frozen(pid, slot.freezes);
        self.enter_at(self.now + IDLE, Event::Net(event));
    }

    /// Whether it has stood still since its so-manieth time.
    pub(crate) fn is_frozen_since(&self, pid: Pid, freezes: u32) -> bool {
        self.slots.get(&pid).is_some_and(|slot| slot.frozen && slot.freezes == freezes)
    }

    /// It goes on.
    pub(crate) fn thaw(&mut self, pid: Pid) {
        let Some(slot) = self.slots.get_mut(&pid) else { return };
        slot.frozen = false;
        for word in std::mem::take(&mut slot.backlog) {
            self.enter(Duration::ZERO, pid, word);
        }
    }

    pub(crate) fn parent_of(&self, pid: Pid) -> Option<Pid> {
        self.slots.get(&pid)?.parent
    }

    pub(crate) fn is_frozen(&self, pid: Pid) -> bool {
        self.slots.get(&pid).is_some_and(|slot| slot.frozen)
    }

    pub(crate) fn lives(&self, pid: Pid) -> bool {
        self.slots.contains_key(&pid)
    }

    pub(crate) fn host_of(&self, pid: Pid) -> HostId {
        self.slots.get(&pid).map_or(STORE, |slot| slot.host)
    }

    pub(crate) fn slow_factor(&self, host: HostId) -> u32 {
        self.hosts[host].slow.max(1)
    }

    /// The processes of a kind.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Pid> {
        let of = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.role.as_ref().is_some_and(|role| role.kind() == kind));
        of.map(|(pid, _)| *pid).collect()
    }

    /// The processes of a host.
    pub(crate) fn on(&self, host: HostId) -> Vec<Pid> {
        self.slots.iter().filter(|(_, slot)| slot.host == host).map(|(pid, _)| *pid).collect()
    }

    pub(crate) fn role(&self, pid: Pid) -> Option<&Role> {
        self.slots.get(&pid)?.role.as_ref()
    }

    /// Does something to a store's process.
    pub(crate) fn with_store(&mut self, pid: Pid, change: impl FnOnce(&mut Store)) {
        if let Some(Role::Store(store)) = self.slots.get_mut(&pid).and_then(|s| s.role.as_mut()) {
            change(store);
            self.enter(Duration::ZERO, pid, Word::Timer(Timer::Expiry));
        }
    }

    /// Asks the store; the answer comes under this number, or that there is none.
    pub(crate) fn ask(&mut self, me: Pid, ask: Ask) -> u64 {
        self.asked += 1;
        let number = self.asked;
        let from = self.host_of(me);
        self.timer(me, REQUEST, Timer::Late(number));
        if !self.hears(from, STORE) || self.dice.chance(self.net.loss) {
            return number;
        }
        let delay = self.delay(from, STORE);
        match self.all(Kind::Store).first() {
            Some(&store) => self.enter(delay, store, Word::Asked(me, number, ask)),
            None => self.enter(delay * 2, me, Word::Answered(number, Err(away("refused")))),
        }
        number
    }
}

/// Why a store could not be asked.
pub(crate) fn away(why: &str) -> RegistryError {
    RegistryError::Unreachable { endpoints: "simulated".into(), why: why.into() }
}

// === impl Role ===

impl Role {
    fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        match self {
            Self::Store(store) => store.handle(world, me, word),
            Self::Control(control) => control.handle(world, me, word),
            Self::Node(node) => node.handle(world, me, word),
            Self::Member(member) => member.handle(world, me, word),
            Self::Gateway(gateway) => gateway.handle(world, me, word),
            Self::Client(client) => client.handle(world, me, word),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Store(_) => Kind::Store,
            Self::Control(_) => Kind::Control,
            Self::Node(_) => Kind::Node,
            Self::Member(_) => Kind::Member,
            Self::Gateway(_) => Kind::Gateway,
            Self::Client(_) => Kind::Client,
        }
    }
}

/// What a pipe between two processes of a host takes.
pub(crate) const PIPE: Duration = Duration::from_micros(100);
/// When the end of a child is known; what it said before comes before that.
const REAPED: Duration = Duration::from_millis(1);
/// The longest that the store is waited for.
const REQUEST: Duration = Duration::from_secs(3);
