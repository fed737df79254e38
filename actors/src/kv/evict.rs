//! Which slot of a tier is used next for something else: the one that was not used for longest, or,
//! with ARC, one of those that were used only once lately, as far as that has turned out well.
//!
//! ARC keeps two orders, of what was used once and of what was used again, and remembers names that
//! each of them has lately given up. Who comes back and is remembered says which of the two is too
//! short, and that one gets more of the room. So a long stream of texts that never come back takes
//! the place of its like, and not of those that do (Megiddo and Modha, 2003).

use std::collections::{BTreeMap, VecDeque};

use troupe_runtime::{id::BlockId, spec::service::Eviction};

use super::{lru::Lru, pool::BlockKey};

/// The order of the slots that hold something and that nobody is reading.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Used once; all, without ARC.
    once: Lru,
    /// Used again.
    again: Lru,
    arc: Option<Arc>,
}

/// What ARC remembers.
#[derive(Clone, Debug)]
struct Arc {
    slots: u32,
    /// So many slots are for what was used once.
    target: u32,
    once: Ghosts,
    again: Ghosts,
}

/// Names that an order has given up, the latest last.
#[derive(Clone, Debug, Default)]
struct Ghosts {
    order: VecDeque<(u64, BlockKey)>,
    /// The number of each name that counts: one that came back has left.
    numbers: BTreeMap<BlockKey, u64>,
    counted: u64,
}

// === impl Order ===

impl Order {
    /// Of a tier with so many slots, none of which holds anything.
    pub(super) fn new(slots: u32, eviction: Eviction) -> Self {
        let (once, again) = (Ghosts::default(), Ghosts::default());
        let arc = Arc { slots, target: 0, once, again };
        Self {
            once: Lru::empty(slots),
            again: Lru::empty(slots),
            arc: (eviction == Eviction::Arc).then_some(arc),
        }
    }

    /// Takes the slot that is to hold `key` next; `named` says what a slot holds.
    pub(super) fn next(
        &mut self,
        key: BlockKey,
        named: impl Fn(BlockId) -> Option<BlockKey>,
    ) -> Option<BlockId> {
        let Self { once, again, arc } = self;
        let Some(arc) = arc else { return once.pop_front() };
        arc.learn(key);
        let is_again = arc.again.holds(key);
        let too_long =
            once.len() > arc.target || (is_again && once.len() == arc.target && arc.target > 0);
        let from_once = !once.is_empty() && (too_long || again.is_empty());
        let slot = if from_once { once.pop_front() } else { again.pop_front() }?;
        if let Some(old) = named(slot) {
            let ghosts = if from_once { &mut arc.once } else { &mut arc.again };
            ghosts.push(old);
        }
        let most = arc.slots.saturating_sub(once.len()) as usize;
        arc.once.trim(most);
        arc.again.trim((arc.slots as usize).saturating_sub(arc.once.len()));
        Some(slot)
    }

    /// A slot holds this from now on.
    pub(super) fn put(&mut self, slot: BlockId, key: BlockKey) {
        let known = self.arc.as_mut().is_some_and(|arc| {
            let once = arc.once.remove(key);
            arc.again.remove(key) || once
        });
        if known { self.again.push_back(slot) } else { self.once.push_back(slot) }
    }

    /// What a slot holds was used again.
    pub(super) fn used(&mut self, slot: BlockId) {
        if self.contains(slot) {
            self.remove(slot);
        }
        if self.arc.is_some() { self.again.push_back(slot) } else { self.once.push_back(slot) }
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, slot: BlockId) {
        let list = if self.once.contains(slot) { &mut self.once } else { &mut self.again };
        list.remove(slot);
    }

    pub(super) fn contains(&self, slot: BlockId) -> bool {
        self.once.contains(slot) || self.again.contains(slot)
    }
}

// === impl Arc ===

impl Arc {
    /// Somebody comes who may have been here before.
    fn learn(&mut self, key: BlockKey) {
        let (once, again) = (self.once.len().max(1) as u32, self.again.len().max(1) as u32);
        if self.once.holds(key) {
            self.target = (self.target + (again / once).max(1)).min(self.slots);
        } else if self.again.holds(key) {
            self.target = self.target.saturating_sub((once / again).max(1));
        }
    }
}

// === impl Ghosts ===

impl Ghosts {
    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn holds(&self, key: BlockKey) -> bool {
        self.numbers.contains_key(&key)
    }

    fn push(&mut self, key: BlockKey) {
        self.counted += 1;
        self.numbers.insert(key, self.counted);
        self.order.push_back((self.counted, key));
    }

    fn remove(&mut self, key: BlockKey) -> bool {
        self.numbers.remove(&key).is_some()
    }

    /// Forgets the oldest until no more than `most` are left.
    fn trim(&mut self, most: usize) {
        // Those that have left stand in the order until they are its oldest: no more of them than
        // there are others.
        while self.len() > most || self.order.len() > 2 * self.len() + SLACK {
            let Some((number, key)) = self.order.pop_front() else { return };
            if self.numbers.get(&key) == Some(&number) {
                self.numbers.remove(&key);
            }
        }
    }
}

/// So many that have left may stand in the order whatever there is beside them.
const SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tier of four slots, driven as a tier drives it; says what was given up.
    struct Four {
        order: Order,
        slots: BTreeMap<u32, BlockKey>,
    }

    impl Four {
        fn new(eviction: Eviction) -> Self {
            Self { order: Order::new(4, eviction), slots: BTreeMap::new() }
        }

        fn take(&mut self, key: BlockKey) {
            if let Some((slot, _)) = self.slots.iter().find(|(_, held)| **held == key) {
                return self.order.used(BlockId(*slot));
            }
            let slot = match self.slots.len() as u32 {
                len if len < 4 => BlockId(len),
                _ => {
                    let slots = self.slots.clone();
                    let named = |slot: BlockId| slots.get(&slot.0).copied();
                    self.order.next(key, named).expect("nothing is pinned")
                }
            };
            self.slots.insert(slot.0, key);
            self.order.put(slot, key);
        }

        fn holds(&self, key: BlockKey) -> bool {
            self.slots.values().any(|held| *held == key)
        }
    }

    #[test]
    fn what_was_used_again_outlives_a_stream_of_what_is_used_once_only_with_arc() {
        for eviction in [Eviction::Lru, Eviction::Arc] {
            let mut four = Four::new(eviction);
            for key in [1, 2, 1, 2] {
                four.take(key);
            }
            (100..200).for_each(|key| four.take(key));
            let stayed = four.holds(1) && four.holds(2);
            assert_eq!(stayed, eviction == Eviction::Arc, "{eviction:?}");
        }
    }

    #[test]
    fn what_comes_back_after_it_was_given_up_gets_more_room() {
        let mut four = Four::new(Eviction::Arc);
        for key in [1, 2, 1, 2] {
            four.take(key);
        }
        // Given up, remembered, and back: it counts as used again.
        for key in [3, 4, 5, 3] {
            four.take(key);
        }
        let arc = four.order.arc.as_ref().expect("it is there");
        assert!(arc.target > 0 && four.order.again.len() == 3, "{arc:?}");
        (0..2000).for_each(|key| four.take(key % 7));
        let arc = four.order.arc.as_ref().expect("it is there");
        assert!(arc.once.len() + arc.again.len() <= 8, "{arc:?}");
        assert!(arc.once.order.len() + arc.again.order.len() <= 16 + 2 * SLACK, "{arc:?}");
    }
}
