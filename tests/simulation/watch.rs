//! A process's watch of the store: the watcher's core over a line, opened again whenever it breaks;
//! and a watch with a witness, which tells what somebody deleted from what the store has lost.

use std::{collections::VecDeque, time::Duration};

use troupe_runtime::discovery::{
    Incarnation, RegistryError, Testimony, WatchEvent,
    rehearsal::{Answer, Ask, Reading, WatchCore},
};

use super::{
    net::LineId,
    words::{Frame, Purpose, Timer, Word},
    world::{Kind, Pid, World},
};

/// A watch.
pub(crate) struct Watch {
    core: WatchCore,
    /// Which of its process's.
    number: usize,
    prefix: String,
    line: Option<LineId>,
}

/// A watch that knows what a deletion means.
pub(crate) struct Witnessed {
    watch: Watch,
    testimony: Testimony,
    told: VecDeque<WatchEvent>,
    asking: Option<Question>,
    out: VecDeque<Witness>,
}

/// What a witnessed watch tells.
#[derive(Debug)]
pub(crate) enum Witness {
    /// As the watch told it.
    Event(WatchEvent),
    /// A key is gone, and whether somebody meant that.
    Gone(String, bool),
}

/// What the store is being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Which life what was told is of; under this number.
    Life(u64),
    /// Which life it lives now, because a key is gone.
    Meant(u64),
    /// The last question was not answered.
    Again,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn new(world: &mut World, number: usize, prefix: String) -> Self {
        Self { core: WatchCore::new(world.dice.next()), number, prefix, line: None }
    }

    pub(crate) fn open(&mut self, world: &mut World, me: Pid) {
        match world.all(Kind::Store).first() {
            Some(&store) => {
                let purpose = Purpose::Watch(self.prefix.clone());
                self.line = Some(world.dial(me, store, purpose, OPEN));
            }
            // Whoever finds nobody tries again.
            None => world.timer(me, REFUSED, Timer::Watch(self.number)),
        }
    }

    /// What a word means for this watch; nothing if it is not for it.
    pub(crate) fn hear(
        &mut self,
        world: &mut World,
        me: Pid,
        word: &Word,
    ) -> Option<Vec<WatchEvent>> {
        let (events, reading) = match word {
            Word::Timer(Timer::Watch(number)) if *number == self.number => {
                self.open(world, me);
                return Some(Vec::new());
            }
            Word::Said(line, Frame::Changes(told)) if self.line == Some(*line) => {
                if told.is_last() {
                    self.line = None;
                }
                self.core.hear(told.clone())
            }
            Word::Over(line, why) if self.line == Some(*line) => {
                self.line = None;
                self.core.lost(why)
            }
            _ => return None,
        };
        if let Reading::Open(after) = reading {
            world.timer(me, after, Timer::Watch(self.number));
        }
        Some(events)
    }
}

// === impl Witnessed ===

impl Witnessed {
    pub(crate) fn new(world: &mut World, number: usize, prefix: String) -> Self {
        Self {
            watch: Watch::new(world, number, prefix),
            testimony: Testimony::default(),
            told: VecDeque::new(),
            asking: None,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, world: &mut World, me: Pid) {
        self.watch.open(world, me);
    }

    /// In which life of the store what was told is.
    pub(crate) fn life(&self) -> Option<String> {
        self.testimony.life()
    }

    /// What it tells next.
    pub(crate) fn next(&mut self) -> Option<Witness> {
        self.out.pop_front()
    }

    /// False if a word is not for this watch.
    pub(crate) fn hear(&mut self, world: &mut World, me: Pid, word: &Word) -> bool {
        let again = matches!(word, Word::Timer(Timer::Witness));
        if again && self.asking == Some(Question::Again) {
            self.asking = None;
        } else {
            let Some(events) = self.watch.hear(world, me, word) else { return false };
            self.told.extend(events);
        }
        self.go_on(world, me);
        true
    }

    /// The store answered; false if that was not for this.
    pub(crate) fn answered(
        &mut self,
        world: &mut World,
        me: Pid,
        number: u64,
        answer: &mut Option<Result<Answer, RegistryError>>,
    ) -> bool {
        let asked = match self.asking {
            Some(asked @ (Question::Life(own) | Question::Meant(own))) if own == number => asked,
            _ => return false,
        };
        match (asked, answer.take()) {
            (Question::Life(_), Some(Ok(Answer::Life(life)))) => {
                self.asking = None;
                self.testimony.lives(life);
                self.out.extend(self.told.pop_front().map(Witness::Event));
            }
            (Question::Meant(_), Some(Ok(Answer::Entry(entry)))) => {
                self.asking = None;
                let meant = self.testimony.was_meant(entry.map(Incarnation::of));
                if let Some(WatchEvent::Delete(key)) = self.told.pop_front() {
                    self.out.push_back(Witness::Gone(key, meant));
                }
            }
            _ => {
                self.asking = Some(Question::Again);
                world.timer(me, RETRY, Timer::Witness);
            }
        }
        self.go_on(world, me);
        true
    }

    /// Tells what can be told without the store's word.
    fn go_on(&mut self, world: &mut World, me: Pid) {
        while self.asking.is_none() {
            let Some(event) = self.told.front() else { return };
            match event {
                WatchEvent::Delete(key) if self.testimony.is_loss() => {
                    self.out.push_back(Witness::Gone(key.clone(), false));
                }
                WatchEvent::Delete(_) => {
                    let ask = Ask::get(world.keys.incarnation());
                    self.asking = Some(Question::Meant(world.ask(me, ask)));
                    return;
                }
                event => {
                    if self.testimony.see(event) {
                        let value = world.dice.id().to_string().into_bytes();
                        let ask = Ask::incarnation(world.keys.incarnation(), value);
                        self.asking = Some(Question::Life(world.ask(me, ask)));
                        return;
                    }
                    self.out.push_back(Witness::Event(event.clone()));
                }
            }
            self.told.pop_front();
        }
    }
}

/// How long a stream of changes may take to begin.
const OPEN: Duration = Duration::from_secs(3);
/// How soon who found no store tries again.
const REFUSED: Duration = Duration::from_millis(300);
/// Between two questions of a witness to a store that does not answer.
const RETRY: Duration = Duration::from_millis(500);
