//! The controller's office: what it takes to plan, and what a plan needs to be written.
//!
//! Whoever holds the election key is in office. What it plans is written in transactions that
//! compare that key and the incarnation of the store that everything was read in; if one of them
//! fails, or either is lost, the office is given up, and whoever has it next (this controller, most
//! of the time) plans from what the store holds.
//!
//! The key alone is not enough: what the store told may be older than it, and a plan made from that
//! would go over what the controller before wrote last, epochs and all. So the office begins when
//! the watch itself has told of this election, and with that of everything that was written before.

use std::time::Duration;

use troupe_runtime::discovery::{Compare, WatchEvent, keys::Keys};

use super::{
    acts::Acts,
    observed::{Observed, Seen},
    plan::{Controller, ControllerEvent, Timing},
};

/// A controller with or without its office.
pub struct Office {
    keys: Keys,
    /// Stands under the election key while this one is in office.
    identity: Vec<u8>,
    core: Controller,
    observed: Observed,
    in_office: bool,
}

/// What can happen to it.
#[derive(Debug)]
pub enum OfficeEvent {
    /// The store's watch tells.
    Store(WatchEvent),
    /// An errand found something out.
    Found(ControllerEvent),
    /// Time has passed, and the election key is held, or is not.
    Tick(bool),
    /// A transaction was not done.
    Unwritten,
}

/// What it wants done.
#[derive(Debug, Default)]
pub struct OfficeEffects {
    /// What is to be written and found out.
    pub acts: Acts,
    /// The office was taken, or lost.
    pub change: Option<Change>,
    /// A tick is due: something that the office waited for is there.
    pub tick: bool,
}

/// What became of the office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is this controller's now.
    Taken,
    /// It no longer is. Nobody's load matters here any more.
    Lost,
}

// === impl Office ===

impl Office {
    /// A controller that knows nothing and holds no office. `identity` must be its own, and
    /// `entropy` differ from controller to controller and from one start to the next.
    pub fn new(keys: Keys, identity: Vec<u8>, timing: Timing, entropy: u64) -> Self {
        let (core, observed) = (Controller::new(timing, entropy), Observed::new(keys.clone()));
        Self { keys, identity, core, observed, in_office: false }
    }

    /// Whether it is in office: then the election key is looked at, else claimed.
    pub fn is_held(&self) -> bool {
        self.in_office
    }

    /// What stands under the election key while it is in office.
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// Takes one event and says what to do. `now` is the time since 1970; it never goes back.
    pub fn handle(&mut self, now: Duration, event: OfficeEvent) -> OfficeEffects {
        let mut effects = OfficeEffects::default();
        let is_watch = matches!(event, OfficeEvent::Store(_));
        let was_vacant = self.observed.is_vacant();
        let events = match event {
            OfficeEvent::Found(event) => vec![event],
            OfficeEvent::Tick(held) => self.run(held, &mut effects),
            OfficeEvent::Unwritten => self.give_up(&mut effects),
            OfficeEvent::Store(event) => match self.observed.see(event) {
                Seen::Events(events) => events,
                // It lives another life: what was planned is void, and so is the office.
                Seen::OtherLife => {
                    effects.tick = true;
                    self.give_up(&mut effects)
                }
            },
        };
        // The office is claimed as soon as it falls free, and begins when the claim is told.
        let fell_free = !was_vacant && self.observed.is_vacant();
        effects.tick |= is_watch && !self.in_office && (fell_free || self.is_elected());
        let planned: Vec<_> =
            events.into_iter().flat_map(|event| self.core.handle(now, event)).collect();
        // Who is in office knows the life; without it nothing can be compared, nor written.
        if let Some(life) = self.observed.life() {
            let office = Compare::Value(self.keys.election(), self.identity.clone());
            effects.acts = Acts::of(&self.keys, life, office, planned);
        }
        effects
    }

    fn run(&mut self, held: bool, effects: &mut OfficeEffects) -> Vec<ControllerEvent> {
        // Claiming it makes the store's incarnation; the watch then tells it.
        let held = held && (self.in_office || self.is_elected());
        match (self.in_office, held) {
            (false, true) => {
                self.in_office = true;
                effects.change = Some(Change::Taken);
                let mut events = vec![ControllerEvent::Elected(self.observed.groups())];
                events.extend(self.observed.is_settled().then_some(ControllerEvent::Settled));
                events
            }
            (true, false) => {
                self.observed.doubt_election();
                self.give_up(effects)
            }
            (true, true) | (false, false) => vec![ControllerEvent::Tick],
        }
    }

    fn is_elected(&self) -> bool {
        self.observed.life().is_some() && self.observed.knows_election_of(&self.identity)
    }

    fn give_up(&mut self, effects: &mut OfficeEffects) -> Vec<ControllerEvent> {
        if !std::mem::take(&mut self.in_office) {
            return Vec::new();
        }
        effects.change = Some(Change::Lost);
        vec![ControllerEvent::Deposed]
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        discovery::{Entry, directory::NodeRecord},
        id::NodeId,
    };
    use uuid::Uuid;

    use super::*;
    use crate::controller::{acts::Errand, desired};

    fn office(keys: &Keys) -> Office {
        let timing = Timing { lease: Duration::from_secs(3), settle: Duration::ZERO };
        Office::new(keys.clone(), b"me".to_vec(), timing, 7)
    }

    fn put(key: String, value: Vec<u8>) -> OfficeEvent {
        OfficeEvent::Store(WatchEvent::Put(Entry { key, value, version: 1 }))
    }

    #[test]
    fn the_office_needs_the_key_and_a_life_and_ends_with_either_and_with_a_failed_write() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        let tick = |office: &mut Office, held| office.handle(now, OfficeEvent::Tick(held)).change;
        let elected = || put(keys.election(), b"me".to_vec());
        assert_eq!(tick(&mut office, true), None, "nothing is known of the store's life");
        assert!(office.handle(now, put(keys.incarnation(), b"one".to_vec())).tick);
        assert_eq!(tick(&mut office, true), None, "what was written before was not told yet");
        assert!(office.handle(now, elected()).tick);
        assert_eq!(tick(&mut office, true), Some(Change::Taken));
        assert_eq!(tick(&mut office, true), None);
        assert_eq!(tick(&mut office, false), Some(Change::Lost));
        assert_eq!(tick(&mut office, true), None, "another may have been elected meanwhile");
        office.handle(now, put(keys.election(), b"another".to_vec()));
        assert_eq!(tick(&mut office, true), None);
        office.handle(now, elected());
        assert_eq!(tick(&mut office, true), Some(Change::Taken));
        assert_eq!(office.handle(now, OfficeEvent::Unwritten).change, Some(Change::Lost));
        assert_eq!(tick(&mut office, true), Some(Change::Taken));
        let other = office.handle(now, put(keys.incarnation(), b"two".to_vec()));
        assert_eq!((other.change, other.tick), (Some(Change::Lost), true));
    }

    #[test]
    fn an_office_that_falls_free_is_claimed_at_once() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        office.handle(now, put(keys.incarnation(), b"one".to_vec()));
        assert!(!office.handle(now, put(keys.election(), b"another".to_vec())).tick);
        let free = || OfficeEvent::Store(WatchEvent::Delete(keys.election()));
        assert!(office.handle(now, free()).tick);
        assert!(!office.handle(now, free()).tick, "it was free");
    }

    #[test]
    fn what_is_planned_is_written_in_this_life_and_this_office_or_found_out() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        office.handle(now, put(keys.incarnation(), b"one".to_vec()));
        office.handle(now, put(keys.election(), b"me".to_vec()));
        office.handle(now, OfficeEvent::Store(WatchEvent::Synced));
        office.handle(now, OfficeEvent::Tick(true));
        let host = NodeRecord {
            id: NodeId(Uuid::from_u128(1)),
            name: "n1".into(),
            process: Uuid::from_u128(2),
            devices: 1,
            device_kind: "cpu".into(),
            version: "0".into(),
            wire: troupe_runtime::wire::VERSION,
            labels: Default::default(),
            device_memory: 0,
            address: None,
            leaving: false,
        };
        let bytes = troupe_runtime::discovery::directory::to_bytes(host);
        office.handle(now, put(keys.node(NodeId(Uuid::from_u128(1))), bytes));
        let launch = desired::launch("file:///m".into(), "m".into(), Default::default());
        let document = desired::declare("s", 1, &launch).to_string().into_bytes();
        let key = keys.spec(desired::KIND, "default", "s");
        let asked = office.handle(now, put(key, document)).acts;
        assert_eq!(asked.errands, [Errand::Model("file:///m".into())]);
        let known = ControllerEvent::ModelKnown("file:///m".into(), None);
        let acts = office.handle(now, OfficeEvent::Found(known)).acts;
        let election = Compare::Value(keys.election(), b"me".to_vec());
        let life = Compare::Value(keys.incarnation(), b"one".to_vec());
        assert!(!acts.writes.is_empty());
        assert!(acts.writes.iter().all(|txn| txn.compare == [life.clone(), election.clone()]));
    }
}
