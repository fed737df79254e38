//! A controller: its office over the store. One message is handled at a time, and while the store
//! is asked for something the others wait, as they do for the actor.

use std::{collections::VecDeque, time::Duration};

use troupe_actors::controller::{
    acts::Errand,
    office::{Office, OfficeEffects, OfficeEvent},
    plan::{ControllerEvent, Timing},
};
use troupe_runtime::{
    discovery::{
        RegistryError, Txn, WatchEvent,
        rehearsal::{Answer, Ask, Command},
    },
    id::NodeId,
};

use super::{
    faults::Sabotage,
    lease::Lease,
    net::IDLE,
    watch::Watch,
    words::{Timer, Word},
    world::{HostId, Kind, Pid, Role, World},
};

/// A controller's process.
pub(crate) struct Control {
    office: Office,
    lease: Lease,
    watch: Watch,
    skew: Duration,
    inbox: VecDeque<Message>,
    writes: VecDeque<Txn>,
    waits: Option<Wait>,
    vigil: Option<Vigil>,
}

/// Watches over the controller in office, on its host.
struct Vigil {
    name: Vec<u8>,
    host: HostId,
    /// When it was last heard, if it was.
    heard: Option<Duration>,
}

enum Message {
    Tick,
    Event(OfficeEvent),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// For the election key.
    Claim,
    /// For a transaction, under this number.
    Write(u64),
}

// === impl Control ===

impl Control {
    pub(crate) fn new(world: &mut World, host: HostId) -> Self {
        let (id, entropy) = (world.dice.id().to_string(), world.dice.next());
        let name = (id, Some(format!("control:{host}")));
        let timing = Timing { lease: HOST_LEASE, settle: HOST_LEASE };
        let root = world.keys.root().to_owned();
        Self {
            office: Office::new(world.keys.clone(), name, timing, entropy),
            lease: Lease::new(world, OFFICE_MILLIS),
            watch: Watch::new(world, 0, root),
            skew: world.hosts[host].skew,
            inbox: VecDeque::new(),
            writes: VecDeque::new(),
            waits: None,
            vigil: None,
        }
    }

    pub(crate) fn is_in_office(&self) -> bool {
        self.office.is_held()
    }

    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        if let Some(events) = self.watch.hear(world, me, &word) {
            let events = events.into_iter().map(OfficeEvent::Store).map(Message::Event);
            self.inbox.extend(events);
            return self.go_on(world, me);
        }
        match word {
            Word::Begin => {
                self.lease.begin(world, me);
                self.watch.open(world, me);
                self.inbox.push_back(Message::Tick);
                world.timer(me, TICK, Timer::Tick);
            }
            Word::Timer(Timer::Tick) => {
                self.watch_over(world, me);
                self.inbox.push_back(Message::Tick);
                world.timer(me, TICK, Timer::Tick);
            }
            Word::Timer(Timer::Lease(timer)) => self.lease.timer(world, me, timer),
            Word::Timer(Timer::Late(number)) => {
                self.answered(world, me, number, Err(super::world::away("late")));
            }
            Word::Answered(number, answer) => self.answered(world, me, number, answer),
            Word::Probed(node, reachable) => {
                self.found(ControllerEvent::HostProbed { node, reachable });
            }
            Word::Model(uri) => self.found(ControllerEvent::ModelKnown(uri, None)),
            _ => {}
        }
        self.go_on(world, me);
    }

    /// Whether whoever is watched over is heard still.
    fn watch_over(&mut self, world: &World, me: Pid) {
        let Some(vigil) = &mut self.vigil else { return };
        let own = world.host_of(me);
        let is_it = |pid: &Pid| match world.role(*pid) {
            Some(Role::Control(control)) => control.office.is_own(&vigil.name),
            _ => false,
        };
        let there = world.all(Kind::Control).into_iter().filter(is_it);
        let heard = there.into_iter().any(|pid| !world.is_frozen(pid))
            && world.hears(vigil.host, own)
            && world.hears(own, vigil.host);
        if heard {
            vigil.heard = Some(world.now);
        } else if vigil.heard.take_if(|heard| world.now - *heard >= IDLE).is_some() {
            let missed = OfficeEvent::Missed(vigil.name.clone());
            self.inbox.push_back(Message::Event(missed));
        }
    }

    fn found(&mut self, event: ControllerEvent) {
        self.inbox.push_back(Message::Event(OfficeEvent::Found(event)));
    }

    fn answered(
        &mut self,
        world: &mut World,
        me: Pid,
        number: u64,
        answer: Result<Answer, RegistryError>,
    ) {
        let mut answer = Some(answer);
        if self.lease.answered(world, me, number, &mut answer) {
            return;
        }
        if self.waits != Some(Wait::Write(number)) {
            return;
        }
        self.waits = None;
        match answer {
            Some(Ok(Answer::Committed(true))) => self.write(world, me),
            _ => {
                self.writes.clear();
                self.event(world, me, OfficeEvent::Unwritten);
            }
        }
    }

    fn go_on(&mut self, world: &mut World, me: Pid) {
        while let Some(through) = self.lease.through() {
            if matches!(through.command, Some(Command::ClaimTerm(..)))
                && self.waits == Some(Wait::Claim)
            {
                self.waits = None;
                let held = through.outcome.unwrap_or(false);
                self.event(world, me, OfficeEvent::Tick(held));
            }
        }
        while self.waits.is_none() {
            let Some(message) = self.inbox.pop_front() else { return };
            match message {
                Message::Event(event) => self.event(world, me, event),
                Message::Tick => self.tick(world, me),
            }
        }
    }

    fn tick(&mut self, world: &mut World, me: Pid) {
        let key = world.keys.election();
        let holds = self.lease.holds(&key);
        let Some(term) = self.office.candidacy(holds) else {
            return self.event(world, me, OfficeEvent::Tick(holds));
        };
        self.waits = Some(Wait::Claim);
        self.lease.command(world, me, Command::ClaimTerm(key, term));
    }

    fn event(&mut self, world: &mut World, me: Pid, event: OfficeEvent) {
        if world.sabotage == Sabotage::OfficeUnchecked && self.is_deposed_by(world, &event) {
            return;
        }
        let now = SINCE_1970 + world.now + self.skew;
        let OfficeEffects { acts, tick, change: _ } = self.office.handle(now, event);
        if tick {
            self.inbox.push_back(Message::Tick);
        }
        for errand in acts.errands {
            match errand {
                Errand::Probe(node, address) => probe(world, me, node, &address),
                Errand::Model(uri) => world.enter(ERRAND, me, Word::Model(uri)),
                // Nothing here is scaled by its load.
                Errand::Follow(_) => {}
                // What comes of it is told to people only.
                Errand::Attend(_) => {}
                Errand::WatchOver(whom) => {
                    self.vigil = whom.and_then(|(name, address)| {
                        let host = address.rsplit(':').next()?.parse().ok()?;
                        Some(Vigil { name, host, heard: None })
                    });
                }
            }
        }
        self.writes.extend(acts.writes);
        self.write(world, me);
    }

    /// Whether an event tells a controller in office that its key is gone.
    fn is_deposed_by(&self, world: &World, event: &OfficeEvent) -> bool {
        let election = world.keys.election();
        self.office.is_held()
            && match event {
                OfficeEvent::Store(WatchEvent::Put(entry)) => entry.key == election,
                OfficeEvent::Store(WatchEvent::Delete(key)) => *key == election,
                _ => false,
            }
    }

    fn write(&mut self, world: &mut World, me: Pid) {
        if self.waits.is_none()
            && let Some(mut txn) = self.writes.pop_front()
        {
            if world.sabotage == Sabotage::OfficeUnchecked {
                txn.compare.clear();
            }
            self.waits = Some(Wait::Write(world.ask(me, Ask::commit(txn))));
        }
    }
}

/// Tries to reach a host's node.
fn probe(world: &mut World, me: Pid, node: NodeId, address: &str) {
    let host = address.rsplit(':').next().and_then(|host| host.parse::<HostId>().ok());
    let Some(host) = host else { return };
    let own = world.host_of(me);
    let nodes = world.all(Kind::Node);
    let up = nodes.into_iter().any(|pid| world.host_of(pid) == host && !world.is_frozen(pid));
    let reachable = up && world.hears(own, host) && world.hears(host, own);
    let after = match reachable {
        true => world.delay(own, host) * 4,
        false => PROBE,
    };
    world.enter(after, me, Word::Probed(node, reachable));
}

/// How long hosts' leases are.
pub(crate) const HOST_LEASE: Duration = Duration::from_secs(3);
/// How long the office's lease is.
const OFFICE_MILLIS: u64 = 2000;
/// How often the office looks around.
const TICK: Duration = Duration::from_millis(200);
/// How long an errand takes.
const ERRAND: Duration = Duration::from_millis(5);
/// Within this a host that is alive shakes hands.
const PROBE: Duration = Duration::from_secs(2);
/// The world's clock begins here.
const SINCE_1970: Duration = Duration::from_secs(1_700_000_000);
