//! A process's lease: the keeper's core, with its questions to the store.

use std::collections::VecDeque;

use troupe_runtime::discovery::{
    RegistryError,
    rehearsal::{Answer, Command, LeaseCore, Through},
};

use super::{
    words::Timer,
    world::{Pid, World, away},
};

/// See the file.
pub(crate) struct Lease {
    core: LeaseCore,
    asking: Option<u64>,
    /// The newest time that was asked for.
    timer: u64,
    /// What it is through with.
    through: VecDeque<Through>,
}

// === impl Lease ===

impl Lease {
    /// A lease of so many milliseconds.
    pub(crate) fn new(world: &mut World, millis: u64) -> Self {
        let ttl = std::time::Duration::from_millis(millis);
        let core = LeaseCore::new(ttl, world.keys.incarnation(), world.dice.next());
        Self { core, asking: None, timer: 0, through: VecDeque::new() }
    }

    /// Looks after itself from now on.
    pub(crate) fn begin(&mut self, world: &mut World, me: Pid) {
        self.ask_for_time(world, me);
    }

    pub(crate) fn command(&mut self, world: &mut World, me: Pid, command: Command) {
        self.core.command(command);
        self.go_on(world, me);
    }

    pub(crate) fn holds(&self, key: &str) -> bool {
        self.core.holds(key)
    }

    /// A time has come; only the newest that was asked for counts.
    pub(crate) fn timer(&mut self, world: &mut World, me: Pid, timer: u64) {
        if timer == self.timer {
            self.core.due();
            self.go_on(world, me);
        }
    }

    /// The store answered; false if that was not for this.
    pub(crate) fn answered(
        &mut self,
        world: &mut World,
        me: Pid,
        number: u64,
        answer: &mut Option<Result<Answer, RegistryError>>,
    ) -> bool {
        if self.asking != Some(number) {
            return false;
        }
        self.asking = None;
        self.core.answered(answer.take().unwrap_or_else(|| Err(away("no answer"))));
        self.go_on(world, me);
        true
    }

    /// What it is through with since this was last asked.
    pub(crate) fn through(&mut self) -> Option<Through> {
        self.through.pop_front()
    }

    fn go_on(&mut self, world: &mut World, me: Pid) {
        while let Some(next) = self.core.go_on() {
            match next {
                Ok(ask) => self.asking = Some(world.ask(me, ask)),
                Err(through) => {
                    if through.command.is_none() || through.outcome.is_err() {
                        self.ask_for_time(world, me);
                    }
                    self.through.push_back(through);
                }
            }
        }
    }

    fn ask_for_time(&mut self, world: &mut World, me: Pid) {
        self.timer += 1;
        world.timer(me, self.core.due_after(), Timer::Lease(self.timer));
    }
}
