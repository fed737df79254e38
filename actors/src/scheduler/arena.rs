//! Where sequences and requests live: found by id in one look, because a step looks for hundreds.
//!
//! An id is a serial number with the slot in its low bits. So ids ascend with age, are never used
//! twice, and an id of a value that is gone finds nothing although its slot is used again.

use troupe_runtime::id::SequenceId;

/// An id that is a number.
pub(crate) trait Serial: Copy + Eq {
    /// The id of a number.
    fn of(number: u64) -> Self;
    /// The number of an id.
    fn number(self) -> u64;
}

/// Values by the ids that it gives them.
#[derive(Clone, Debug)]
pub(crate) struct Arena<I, T> {
    slots: Vec<Option<(I, T)>>,
    free: Vec<usize>,
    serial: u64,
}

/// Bits of an id that say the slot: a million live values, far above any queue's bound.
const SLOT_BITS: u32 = 20;
/// Most live values.
pub(crate) const MAX_LIVE: usize = 1 << SLOT_BITS;

impl<I: Serial, T> Arena<I, T> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), serial: 0 }
    }

    /// Keeps a value under a new id, above all earlier ones.
    ///
    /// Panics above [`MAX_LIVE`] values: the engine's queue is bounded far below.
    pub(crate) fn insert(&mut self, value: T) -> I {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        assert!(slot < MAX_LIVE, "more than {MAX_LIVE} live values");
        self.serial += 1;
        let id = I::of(self.serial << SLOT_BITS | slot as u64);
        self.slots[slot] = Some((id, value));
        id
    }

    /// The value of an id.
    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let (own, value) = self.slots.get(slot(id))?.as_ref()?;
        (*own == id).then_some(value)
    }

    /// The value of an id, to be changed.
    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let (own, value) = self.slots.get_mut(slot(id))?.as_mut()?;
        (*own == id).then_some(value)
    }

    /// Takes a value out; its id finds nothing from now on.
    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        self.get(id)?;
        let (_, value) = self.slots[slot(id)].take()?;
        self.free.push(slot(id));
        Some(value)
    }

    /// All values, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> + Clone {
        self.slots.iter().flatten().map(|(id, value)| (*id, value))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Serial for SequenceId {
    fn of(number: u64) -> Self {
        Self(number)
    }

    fn number(self) -> u64 {
        self.0
    }
}

fn slot(id: impl Serial) -> usize {
    (id.number() & (MAX_LIVE as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_an_old_one_finds_nothing() {
        let mut arena: Arena<SequenceId, char> = Arena::new();
        let a = arena.insert('a');
        assert_eq!(arena.remove(a), Some('a'));
        let b = arena.insert('b');
        assert!(b > a);
        assert_eq!((arena.get(a), arena.get(b), arena.len()), (None, Some(&'b'), 1));
        assert_eq!(arena.remove(a), None);
    }
}
