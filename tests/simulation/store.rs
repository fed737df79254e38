//! The store: the embedded one's data, which answers questions, feeds watches, and lets leases run
//! out. It can be away and come back with what it held, or lose it.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::discovery::{
    WatchEvent,
    rehearsal::{Place, Reading, StoreCore, WatchCore},
};

use super::{
    net::LineId,
    words::{Frame, Purpose, Timer, Word},
    world::{Pid, STORE, World},
};

/// The store's process.
pub(crate) struct Store {
    core: StoreCore,
    watches: BTreeMap<LineId, (String, Place)>,
    /// When it looks for leases that have run out.
    looks_at: Option<Duration>,
    /// What the checks see of it.
    witness: Option<(WatchCore, Place)>,
}

// === impl Store ===

impl Store {
    pub(crate) fn new(core: StoreCore) -> Self {
        Self { core, watches: BTreeMap::new(), looks_at: None, witness: None }
    }

    pub(crate) fn into_data(self) -> StoreCore {
        self.core
    }

    pub(crate) fn core(&self) -> &StoreCore {
        &self.core
    }

    /// Is put back to an older state.
    pub(crate) fn restore(&mut self, now: Duration, backup: &StoreCore) {
        self.core.restore(now, backup);
    }

    /// Loses everything.
    pub(crate) fn wipe(&mut self) {
        self.core.wipe();
    }

    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        match word {
            Word::Begin => self.core.begin_again(world.now),
            Word::Timer(Timer::Expiry) => self.looks_at = None,
            Word::Opened(line, Purpose::Watch(prefix)) => {
                let (told, place) = self.core.list(world.now, &prefix);
                world.say(me, line, Frame::Changes(told));
                self.watches.insert(line, (prefix, place));
            }
            Word::Over(line, _) => drop(self.watches.remove(&line)),
            Word::Asked(from, number, ask) => {
                let answer = self.core.ask(world.now, ask);
                let host = world.host_of(from);
                if world.hears(STORE, host) && !world.dice.chance(world.net.loss) {
                    let delay = world.delay(STORE, host);
                    world.enter(delay, from, Word::Answered(number, answer));
                }
            }
            _ => {}
        }
        self.feed(world, me);
        self.look_at_leases(world, me);
    }

    fn feed(&mut self, world: &mut World, me: Pid) {
        let mut behind = Vec::new();
        for (line, (prefix, place)) in &mut self.watches {
            let Some(told) = self.core.since(world.now, prefix, place) else { continue };
            if told.is_last() {
                behind.push(*line);
            }
            world.say(me, *line, Frame::Changes(told));
        }
        for line in behind {
            self.watches.remove(&line);
            world.hang_up(me, line, "it fell behind");
        }
        self.be_seen(world);
    }

    /// Shows the checks what has changed.
    fn be_seen(&mut self, world: &mut World) {
        let root = world.keys.root().to_owned();
        let told = match &mut self.witness {
            None => {
                let (told, place) = self.core.list(world.now, &root);
                self.witness = Some((WatchCore::new(0), place));
                Some(told)
            }
            Some((_, place)) => self.core.since(world.now, &root, place),
        };
        let Some((watch, place)) = &mut self.witness else { return };
        let Some(told) = told else { return };
        let (mut events, mut reading) = watch.hear(told);
        if matches!(reading, Reading::Open(_)) {
            let (all, from) = self.core.list(world.now, &root);
            *place = from;
            let more;
            (more, reading) = watch.hear(all);
            events.extend(more);
        }
        debug_assert_eq!(reading, Reading::Read);
        for event in events {
            let keys = world.keys.clone();
            if world.loud {
                print(&event);
            }
            match event {
                WatchEvent::Rewound => world.check.epochs.store_rewound(),
                event => world.check.epochs.stored(&keys, &event),
            }
        }
    }

    fn look_at_leases(&mut self, world: &mut World, me: Pid) {
        let Some(at) = self.core.next_expiry() else { return };
        if self.looks_at.is_none_or(|looks_at| at < looks_at) {
            self.looks_at = Some(at);
            world.timer(me, at.saturating_sub(world.now), Timer::Expiry);
        }
    }
}

/// Prints what has changed, as text.
fn print(event: &WatchEvent) {
    match event {
        WatchEvent::Put(entry) => {
            let value = String::from_utf8_lossy(&entry.value);
            eprintln!("             + {} {value}", entry.key);
        }
        WatchEvent::Delete(key) => eprintln!("             - {key}"),
        other => eprintln!("             {other:?}"),
    }
}
