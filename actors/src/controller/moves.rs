//! Groups leave hosts that are to be empty.
//!
//! One service at a time, one group of it at a time: where the devices suffice a further group is
//! formed behind the others first, and only when that serves does one drain; where they do not, it
//! drains in place as long as no more than `maxUnavailable` are missing. A service whose groups
//! cannot leave lets the next one have its turn and says why.

use troupe_runtime::discovery::directory::{AfterDrain, EventKind};

use super::{
    service::{Goal, Service},
    world::World,
};

impl Service {
    /// Whether groups are to leave hosts at all, and whether it is this service's turn to move one
    /// that serves.
    pub(super) fn has_moves(&self, world: &World) -> Option<bool> {
        let any = world.hosts.draining().next().is_some();
        let mine = || {
            let serves = |index: &u32| self.groups.get(index).is_some_and(|g| g.is_ready());
            self.leaving(world).iter().any(serves)
                && world.moving.as_ref().is_none_or(|moving| *moving == self.name)
        };
        any.then(|| self.is_moving() || mine())
    }

    /// Moves what may be moved now.
    pub(super) fn move_away(&mut self, world: &mut World, goal: &Goal) {
        let leaving = self.leaving(world);
        if leaving.is_empty() {
            if !self.is_moving() {
                self.give_turn(world);
            }
            return;
        }
        if world.moving.as_ref().is_some_and(|moving| *moving != self.name) {
            return;
        }
        world.moving = Some(self.name.clone());
        let serves = |index: &u32| self.groups.get(index).is_some_and(|group| group.is_ready());
        let (serving, idle): (Vec<u32>, Vec<u32>) = leaving.into_iter().partition(serves);
        // What does not serve takes nothing from anybody by leaving.
        for index in idle {
            self.vacate(world, index);
            self.form(world, index);
        }
        let Some(index) = serving.last().copied() else { return };
        let behind = self.groups.range(goal.replicas..);
        let comes = behind.filter(|(_, group)| !group.is_ready() && !group.attempts.given_up);
        let waits = comes.filter(|(_, group)| group.drain().is_none()).count() > 0;
        if self.is_moving() || waits {
            return;
        }
        let serve = self.groups.values().filter(|group| group.is_ready()).count() as u32;
        let needed = goal.replicas.saturating_sub(goal.strategy.max_unavailable);
        if serve > needed {
            let seconds = self.seconds(world, index);
            if !self.drain(world, index, AfterDrain::Move, seconds) {
                self.vacate(world, index);
                self.form(world, index);
            }
            return;
        }
        let message = format!(
            "{} cannot leave its host: {serve} of {} groups serve, {needed} have to, and there \
             is no place for another",
            self.name.group(index),
            goal.replicas,
        );
        world.tell_service((&self.name, EventKind::Warning), "DrainBlocked", message.clone());
        self.stays = Some(message);
        self.look_again(world.now + std::time::Duration::from_secs(1));
        self.give_turn(world);
    }

    /// Groups with a member on a host that is to be empty, and that do not leave it yet.
    fn leaving(&self, world: &World) -> Vec<u32> {
        let leaves = |index: &u32| self.seconds(world, *index).is_some();
        self.groups
            .iter()
            .filter(|(_, group)| group.record.is_some() && group.drain().is_none())
            .map(|(index, _)| *index)
            .filter(leaves)
            .collect()
    }

    /// How long a group on a host that is to be empty has for what it has begun.
    fn seconds(&self, world: &World, index: u32) -> Option<u32> {
        let record = self.groups.get(&index)?.record.as_ref()?;
        record.members.iter().filter_map(|member| world.hosts.drain(member.node)).min()
    }

    fn is_moving(&self) -> bool {
        let then = |group: &super::service::Group| group.drain().map(|drain| drain.then);
        self.groups.values().any(|group| then(group) == Some(AfterDrain::Move))
    }

    fn give_turn(&self, world: &mut World) {
        if world.moving.as_ref() == Some(&self.name) {
            world.moving = None;
        }
    }
}
