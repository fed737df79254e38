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
//! Each time that the office is claimed is a term with a value of its own under the key, so that an
//! election is not taken for the one before, between which another may have been in office.
//!
//! A controller that dies leaves its key until its lease is over, which takes an etcd longer than
//! anybody wants to wait. So whoever is not in office keeps a connection to the one that is, and
//! takes the key away when that breaks: one that lives all the same has lost no more than its
//! office, for what it writes names a key that is gone. Only whom this one has heard is missed: two
//! controllers that cannot reach each other do not take the office from each other by turns.

use std::time::Duration;

use troupe_runtime::discovery::{Compare, Op, Txn, WatchEvent, keys::Keys};

use super::{
    acts::{Acts, Errand},
    observed::{Observed, Seen},
    plan::{Controller, ControllerEvent, Timing},
};

/// A controller with or without its office.
pub struct Office {
    keys: Keys,
    /// Whose office it is, and where it is reached, if it says so.
    id: String,
    address: Option<String>,
    /// Grows with each claim.
    term: u64,
    /// Stands under the election key in this term.
    identity: Vec<u8>,
    /// The key was claimed for this term, which is not known to be over.
    stands: bool,
    core: Controller,
    observed: Observed,
    in_office: bool,
    /// Who in office is watched over.
    watched: Option<Vec<u8>>,
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
    /// The controller that stood so under the election key was heard, and is not any more.
    Missed(Vec<u8>),
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
    /// A controller that knows nothing and holds no office. `id` must be its own, and `entropy`
    /// differ from controller to controller and from one start to the next.
    pub fn new(
        keys: Keys,
        (id, address): (String, Option<String>),
        timing: Timing,
        entropy: u64,
    ) -> Self {
        let (core, observed) = (Controller::new(timing, entropy), Observed::new(keys.clone()));
        let (identity, term, stands, in_office) = (Vec::new(), 0, false, false);
        let watched = None;
        Self { keys, id, address, term, identity, stands, core, observed, in_office, watched }
    }

    /// Whether it is in office.
    pub fn is_held(&self) -> bool {
        self.in_office
    }

    /// Whether this is what stands under the election key in one of its terms.
    pub fn is_own(&self, elected: &[u8]) -> bool {
        let term = elected.strip_prefix(self.id.as_bytes());
        term.is_some_and(|term| term.starts_with(b"/"))
    }

    /// What to claim the election key with, for a term of its own, before a tick; nothing if it is
    /// enough to look whether this one `holds` the key, as was said last.
    pub fn candidacy(&mut self, holds: bool) -> Option<Vec<u8>> {
        if self.in_office || self.stands && holds {
            return None;
        }
        (self.term, self.stands) = (self.term + 1, true);
        let Self { id, term, .. } = self;
        self.identity = match &self.address {
            Some(address) => format!("{id}/{term} {address}").into_bytes(),
            None => format!("{id}/{term}").into_bytes(),
        };
        Some(self.identity.clone())
    }

    /// Takes one event and says what to do. `now` is the time since 1970; it never goes back.
    pub fn handle(&mut self, now: Duration, event: OfficeEvent) -> OfficeEffects {
        let mut effects = OfficeEffects::default();
        let is_watch = matches!(event, OfficeEvent::Store(_));
        let was_vacant = self.observed.is_vacant();
        let knew_life = self.observed.life().is_some();
        let events = match event {
            OfficeEvent::Found(event) => vec![event],
            OfficeEvent::Tick(held) => self.run(held, &mut effects),
            OfficeEvent::Unwritten => self.give_up(&mut effects),
            OfficeEvent::Missed(who) => return self.depose(&who),
            OfficeEvent::Store(event) => match self.observed.see(event) {
                // Another one has taken it, or took the key away.
                Seen::Events(mut events) if self.in_office && !self.is_elected() => {
                    effects.tick = true;
                    events.extend(self.give_up(&mut effects));
                    events
                }
                Seen::Events(events) => events,
                // It lives another life: what was planned is void, and so is the office.
                Seen::OtherLife => {
                    effects.tick = true;
                    if knew_life { self.give_up(&mut effects) } else { Vec::new() }
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
        effects.acts.errands.extend(self.watch_over());
        effects
    }

    /// Whom to watch over from now on, if that is somebody else than before.
    fn watch_over(&mut self) -> Option<Errand> {
        let elected = self.observed.elected().filter(|elected| !self.is_own(elected));
        if elected == self.watched.as_deref() {
            return None;
        }
        self.watched = elected.map(<[u8]>::to_vec);
        let address = self.watched.as_deref().and_then(|name| str::from_utf8(name).ok());
        // One that does not say where it is has its lease.
        let address = address.and_then(|name| Some(name.split_once(' ')?.1.to_owned()));
        Some(Errand::WatchOver(self.watched.clone().zip(address)))
    }

    /// Takes the key away from one that is missed, if it has it still.
    fn depose(&self, missed: &[u8]) -> OfficeEffects {
        let mut effects = OfficeEffects::default();
        let (Some(life), false) = (self.observed.life(), self.in_office) else { return effects };
        if self.observed.elected() == Some(missed) {
            let key = self.keys.election();
            let compare = vec![life.compare(), Compare::Value(key.clone(), missed.to_vec())];
            effects.acts.writes.push(Txn { compare, then: vec![Op::Delete(key)] });
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
            (true, false) => self.give_up(effects),
            (true, true) | (false, false) => vec![ControllerEvent::Tick],
        }
    }

    fn is_elected(&self) -> bool {
        self.observed.life().is_some() && self.observed.knows_election_of(&self.identity)
    }

    fn give_up(&mut self, effects: &mut OfficeEffects) -> Vec<ControllerEvent> {
        self.stands = false;
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
        Office::new(keys.clone(), ("me".to_owned(), None), timing, 7)
    }

    fn put(key: String, value: Vec<u8>) -> OfficeEvent {
        OfficeEvent::Store(WatchEvent::Put(Entry { key, value, version: 1 }))
    }

    /// Claims the key, as far as that takes, and has it.
    fn claims(office: &mut Office) -> Option<Change> {
        let told = office.candidacy(false).map(|term| put(office.keys.election(), term));
        let now = Duration::from_secs(1);
        told.into_iter().for_each(|told| drop(office.handle(now, told)));
        office.handle(now, OfficeEvent::Tick(true)).change
    }

    #[test]
    fn the_office_needs_the_key_and_a_life_and_ends_with_either_and_with_a_failed_write() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        let tick = |office: &mut Office, held| office.handle(now, OfficeEvent::Tick(held)).change;
        let first = office.candidacy(false).expect("it is not in office");
        assert_eq!(tick(&mut office, true), None, "nothing is known of the store's life");
        assert!(office.handle(now, put(keys.incarnation(), b"one".to_vec())).tick);
        assert_eq!(tick(&mut office, true), None, "what was written before was not told yet");
        assert_eq!(office.candidacy(true), None, "it has the key");
        assert!(office.handle(now, put(keys.election(), first.clone())).tick);
        assert_eq!(tick(&mut office, true), Some(Change::Taken));
        assert_eq!((tick(&mut office, true), office.candidacy(false)), (None, None));
        assert_eq!(tick(&mut office, false), Some(Change::Lost));
        let second = office.candidacy(true).expect("another may have been elected meanwhile");
        assert_ne!(first, second);
        assert_eq!(tick(&mut office, true), None, "the first term is over");
        office.handle(now, put(keys.election(), b"another".to_vec()));
        assert_eq!(tick(&mut office, true), None);
        office.handle(now, put(keys.election(), second));
        assert_eq!(tick(&mut office, true), Some(Change::Taken));
        assert_eq!(office.handle(now, OfficeEvent::Unwritten).change, Some(Change::Lost));
        assert_eq!(tick(&mut office, false), None);
        assert_eq!(claims(&mut office), Some(Change::Taken));
        let other = office.handle(now, put(keys.incarnation(), b"two".to_vec()));
        assert_eq!((other.change, other.tick), (Some(Change::Lost), true));
    }

    #[test]
    fn who_is_in_office_is_watched_over_and_deposed_when_missed() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        office.handle(now, put(keys.incarnation(), b"one".to_vec()));
        let other = b"other/3 quic://10.0.0.1:7443".to_vec();
        let acts = office.handle(now, put(keys.election(), other.clone())).acts;
        let watch = Errand::WatchOver(Some((other.clone(), "quic://10.0.0.1:7443".to_owned())));
        assert_eq!(acts.errands, [watch]);
        assert!(office.handle(now, OfficeEvent::Tick(false)).acts.errands.is_empty(), "it is");
        let missed = |office: &mut Office, who: &[u8]| {
            office.handle(now, OfficeEvent::Missed(who.to_vec())).acts.writes
        };
        assert!(missed(&mut office, b"other/2 quic://10.0.0.1:7443").is_empty(), "a former term");
        let writes = missed(&mut office, &other);
        let [Txn { compare, then }] = &writes[..] else { panic!("{writes:?}") };
        assert_eq!(compare[1], Compare::Value(keys.election(), other.clone()));
        assert_eq!(then[..], [Op::Delete(keys.election())]);
        // It is gone: nobody is watched over, and the office is claimed.
        let free = office.handle(now, OfficeEvent::Store(WatchEvent::Delete(keys.election())));
        assert_eq!((free.acts.errands, free.tick), (vec![Errand::WatchOver(None)], true));
        assert!(missed(&mut office, &other).is_empty());
        // One that does not say where it is cannot be.
        let acts = office.handle(now, put(keys.election(), b"hermit/1".to_vec())).acts;
        assert_eq!(acts.errands, [Errand::WatchOver(None)]);
        // Nor is this one itself, in a term that is over.
        let acts =
            office.handle(now, put(keys.election(), b"me/9 quic://10.0.0.2:1".to_vec())).acts;
        assert_eq!(acts.errands, [Errand::WatchOver(None)]);
    }

    #[test]
    fn one_whose_key_was_taken_away_is_not_in_office() {
        let (keys, now) = (Keys::new("test"), Duration::from_secs(1));
        let mut office = office(&keys);
        office.handle(now, put(keys.incarnation(), b"one".to_vec()));
        assert_eq!(claims(&mut office), Some(Change::Taken));
        let gone = office.handle(now, OfficeEvent::Store(WatchEvent::Delete(keys.election())));
        assert_eq!((gone.change, gone.tick), (Some(Change::Lost), true));
        assert_eq!(claims(&mut office), Some(Change::Taken));
        let taken = office.handle(now, put(keys.election(), b"another".to_vec()));
        assert_eq!(taken.change, Some(Change::Lost));
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
        office.handle(now, OfficeEvent::Store(WatchEvent::Synced));
        claims(&mut office);
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
        let election = Compare::Value(keys.election(), b"me/1".to_vec());
        let life = Compare::Value(keys.incarnation(), b"one".to_vec());
        assert!(!acts.writes.is_empty());
        assert!(acts.writes.iter().all(|txn| txn.compare == [life.clone(), election.clone()]));
    }
}
