//! A store and those who use it without a network and without a clock: for simulators.
//!
//! These are the cores that stand behind [`Registry`](super::Registry): the embedded store's data,
//! the keeper of a lease, and a watch. What carries questions and answers between them, how long
//! that takes and what is lost on the way is the caller's.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    Entry, Incarnation, Op, RegistryError, Txn, WatchEvent,
    embedded::data::{Data, Position, Since},
    keeper::{
        core::{Core, Effect, Event},
        course::Course,
    },
    store::{Broken, By, Change, Hold, LeaseId, Renewed, Stand},
    watcher::{self, Next, Watcher},
};

/// A store.
#[derive(Clone, Debug, Default)]
pub struct StoreCore {
    data: Data,
    /// Leases whose owners do not know yet that it went back in time.
    rewound: BTreeSet<LeaseId>,
}

/// What a store is asked.
#[derive(Clone, Debug)]
pub struct Ask(Question);

#[derive(Clone, Debug)]
enum Question {
    Get(String),
    Commit(Txn),
    Open(String, Vec<u8>),
    Keep(Effect, Duration, Option<Incarnation>),
}

/// What it answers.
#[derive(Debug)]
pub enum Answer {
    /// What stands under a key.
    Entry(Option<Entry>),
    /// Whether a transaction was done.
    Committed(bool),
    /// The life that the store lives.
    Life(Incarnation),
    /// What became of a lease.
    Kept(Kept),
}

/// For the lease that has asked.
#[derive(Debug)]
pub struct Kept(Option<Event>);

/// How far a watch has read.
#[derive(Clone, Copy, Debug)]
pub struct Place(Position);

/// What a watch is told.
#[derive(Clone, Debug)]
pub struct Told(Tidings);

#[derive(Clone, Debug)]
enum Tidings {
    All(Vec<Entry>, Stand),
    Changes(Vec<Change>, Stand),
    Behind,
}

// === impl StoreCore ===

impl StoreCore {
    /// Answers one question.
    ///
    /// # Errors
    /// What no store would take.
    pub fn ask(&mut self, now: Duration, Ask(question): Ask) -> Result<Answer, RegistryError> {
        self.data.expire(now);
        Ok(match question {
            Question::Get(key) => Answer::Entry(self.data.get(&key)),
            Question::Commit(txn) => Answer::Committed(self.data.commit(txn)?),
            Question::Open(key, value) => Answer::Life(self.open(key, value)?),
            Question::Keep(effect, ttl, life) => {
                Answer::Kept(Kept(self.keep(now, effect, (ttl, life))?))
            }
        })
    }

    /// The store's incarnation, which is this if it has none.
    fn open(&mut self, key: String, value: Vec<u8>) -> Result<Incarnation, RegistryError> {
        if self.data.get(&key).is_none() {
            let then = vec![Op::Put(key.clone(), value.clone())];
            self.data.commit(Txn { compare: Vec::new(), then })?;
        }
        let entry = self.data.get(&key);
        Ok(Incarnation::of(entry.unwrap_or(Entry { key, value, version: 1 })))
    }

    fn keep(
        &mut self,
        now: Duration,
        effect: Effect,
        (ttl, life): (Duration, Option<Incarnation>),
    ) -> Result<Option<Event>, RegistryError> {
        let unknown = || RegistryError::Refused("the store's incarnation was not read".into());
        Ok(match effect {
            Effect::Grant => Some(Event::Granted(self.data.grant(ttl, now))),
            Effect::Renew(lease) => {
                let rewound = self.rewound.remove(&lease);
                Some(Event::Renewed(match self.data.renew(lease, now) {
                    true if rewound => Renewed::Rewound,
                    true => Renewed::Kept,
                    false => Renewed::Lost,
                }))
            }
            Effect::Ensure(lease, hold) => {
                let held = self.data.ensure(lease, &hold, &life.ok_or_else(unknown)?)?;
                Some(Event::Ensured(hold.key, held))
            }
            Effect::Release(lease, key) => {
                let released = self.data.release(lease, &key, &life.ok_or_else(unknown)?);
                Some(Event::Released(key, released))
            }
            Effect::Revoke(lease) => {
                self.data.revoke(lease);
                Some(Event::Revoked(lease))
            }
            // Asked for as a question of its own.
            Effect::Open => None,
        })
    }

    /// What a new watch of a prefix is told first, and where it goes on.
    pub fn list(&mut self, now: Duration, prefix: &str) -> (Told, Place) {
        self.data.expire(now);
        let place = self.data.position();
        (Told(Tidings::All(self.data.list(prefix), place.stand())), Place(place))
    }

    /// What has changed under a prefix since; nothing if nothing has.
    pub fn since(&mut self, now: Duration, prefix: &str, place: &mut Place) -> Option<Told> {
        self.data.expire(now);
        match self.data.since(place.0, prefix) {
            Since::Gone => Some(Told(Tidings::Behind)),
            Since::Changes(changes, position) => {
                *place = Place(position);
                (!changes.is_empty()).then(|| Told(Tidings::Changes(changes, position.stand())))
            }
        }
    }

    /// When the next lease runs out, if nobody renews it.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.data.next_expiry()
    }

    /// It was away, and is back with all that it held.
    pub fn begin_again(&mut self, now: Duration) {
        self.data.renew_all(now);
    }

    /// Everything under a prefix.
    pub fn entries(&self, prefix: &str) -> Vec<Entry> {
        self.data.list(prefix)
    }

    /// Is put back to what it held when this was copied.
    pub fn restore(&mut self, now: Duration, backup: &Self) {
        self.data.restore(&backup.data, now);
        self.rewound = self.data.leases().collect();
    }

    /// Loses everything, leases too.
    pub fn wipe(&mut self) {
        self.data.wipe();
    }
}

// === impl Ask, Told ===

impl Ask {
    /// For one key.
    pub fn get(key: String) -> Self {
        Self(Question::Get(key))
    }

    /// For a transaction.
    pub fn commit(txn: Txn) -> Self {
        Self(Question::Commit(txn))
    }

    /// For the incarnation under this key, which is to have this value if there is none.
    pub fn incarnation(key: String, value: Vec<u8>) -> Self {
        Self(Question::Open(key, value))
    }
}

impl Told {
    /// Whether the watch is over with this.
    pub fn is_last(&self) -> bool {
        matches!(self.0, Tidings::Behind)
    }
}

/// A lease's keeper.
#[derive(Debug)]
pub struct LeaseCore {
    core: Core,
    /// Of the store's incarnation.
    key: String,
    seed: u64,
    proposed: u64,
    due: bool,
    commands: VecDeque<Command>,
    /// What it is at: for whom, and what the store was asked last.
    course: Option<(Option<Command>, Course, Option<Effect>)>,
}

/// What a lease's owner wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// This key is to be under it, whatever was there.
    Put(String, Vec<u8>),
    /// This key is to be under it, if nobody else has it.
    Claim(String, Vec<u8>),
    /// The same for one term of an office.
    ClaimTerm(String, Vec<u8>),
    /// This key is to go.
    Delete(String),
    /// All of them are.
    Revoke,
}

/// What a keeper is through with.
#[derive(Debug)]
pub struct Through {
    /// What it was asked for; nothing if it looked after the lease.
    pub command: Option<Command>,
    /// Whether that was done; for a claim, whether the key is ours.
    pub outcome: Result<bool, RegistryError>,
}

// === impl LeaseCore ===

impl LeaseCore {
    /// Of so long a lease, in a store whose incarnation stands under `key`.
    pub fn new(ttl: Duration, key: String, seed: u64) -> Self {
        let (proposed, due) = (0, false);
        let (commands, course) = (VecDeque::new(), None);
        Self { core: Core::new(ttl, seed), key, seed, proposed, due, commands, course }
    }

    /// The owner wants this, after all that it wanted before.
    pub fn command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// It is time to look after the lease.
    pub fn due(&mut self) {
        self.due = true;
    }

    /// In which time it is due again.
    pub fn due_after(&self) -> Duration {
        self.core.due_after()
    }

    /// Whether a key that was claimed was ours when the store last said so.
    pub fn holds(&self, key: &str) -> bool {
        self.core.held().contains(key)
    }

    /// Goes on as far as it can: the store is to be asked this, or it is through with something, or
    /// there is nothing to do before an answer or a command.
    pub fn go_on(&mut self) -> Option<Result<Ask, Through>> {
        if self.course.is_none() {
            self.begin()?;
        }
        let (command, mut course, asked) = self.course.take()?;
        if asked.is_some() {
            self.course = Some((command, course, asked));
            return None;
        }
        let Some(effect) = course.next(&mut self.core) else {
            let outcome = course.outcome();
            let outcome = match &command {
                Some(command @ (Command::Claim(key, value) | Command::ClaimTerm(key, value))) => {
                    let by = match command {
                        Command::Claim(..) => By::Claim,
                        _ => By::Term,
                    };
                    let hold = Hold { key: key.clone(), value: value.clone(), by };
                    let held = self.core.held_after(&hold, outcome.is_ok());
                    outcome.map(|()| held)
                }
                _ => outcome.map(|()| true),
            };
            return Some(Err(Through { command, outcome }));
        };
        let question = match &effect {
            Effect::Open => {
                self.proposed += 1;
                let value = format!("{:016x}-{}", self.seed, self.proposed).into_bytes();
                Question::Open(self.key.clone(), value)
            }
            effect => Question::Keep(effect.clone(), self.core.ttl, self.core.life.clone()),
        };
        self.course = Some((command, course, Some(effect)));
        Some(Ok(Ask(question)))
    }

    fn begin(&mut self) -> Option<()> {
        let (command, effects) = if std::mem::take(&mut self.due) {
            (None, self.core.handle(Event::Due))
        } else {
            let command = self.commands.pop_front()?;
            let hold = |key: &String, value: &Vec<u8>, by| {
                Event::Hold(Hold { key: key.clone(), value: value.clone(), by })
            };
            let event = match &command {
                Command::Put(key, value) => hold(key, value, By::Put),
                Command::Claim(key, value) => hold(key, value, By::Claim),
                Command::ClaimTerm(key, value) => hold(key, value, By::Term),
                Command::Delete(key) => Event::Delete(key.clone()),
                Command::Revoke => Event::Revoke,
            };
            (Some(command), self.core.handle(event))
        };
        self.course = Some((command, Course::new(effects), None));
        Some(())
    }

    /// The store has answered what it was asked last, or has not.
    pub fn answered(&mut self, answer: Result<Answer, RegistryError>) {
        let Some((_, course, asked)) = &mut self.course else { return };
        let Some(effect) = asked.take() else { return };
        let performed = answer.map(|answer| match answer {
            Answer::Life(life) => Some(Event::Opened(life)),
            Answer::Kept(Kept(event)) => event,
            Answer::Entry(_) | Answer::Committed(_) => None,
        });
        course.performed(&mut self.core, effect, performed);
    }
}

/// A watch.
#[derive(Debug)]
pub struct WatchCore(Watcher);

/// How a watch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// With what the store tells.
    Read,
    /// By opening a stream of the store's changes after so long.
    Open(Duration),
}

// === impl WatchCore ===

impl WatchCore {
    /// One that has told nothing; `seed` spreads its waits.
    pub fn new(seed: u64) -> Self {
        Self(Watcher::new(seed))
    }

    /// The store told something.
    pub fn hear(&mut self, Told(tidings): Told) -> (Vec<WatchEvent>, Reading) {
        self.handle(match tidings {
            Tidings::All(entries, stand) => watcher::Event::Opened(entries, stand),
            Tidings::Changes(changes, stand) => watcher::Event::Changed(changes, stand),
            Tidings::Behind => watcher::Event::Broke(Broken::Behind),
        })
    }

    /// The store does not answer.
    pub fn lost(&mut self, why: &str) -> (Vec<WatchEvent>, Reading) {
        self.handle(watcher::Event::Broke(Broken::Away(why.to_owned())))
    }

    fn handle(&mut self, event: watcher::Event) -> (Vec<WatchEvent>, Reading) {
        let effects = self.0.handle(event);
        let reading = match effects.next {
            Next::Read => Reading::Read,
            Next::Open { after } => Reading::Open(after),
        };
        (effects.tell, reading)
    }
}
