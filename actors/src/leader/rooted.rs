//! Which blocks hang together from a beginning: only those can be found.
//!
//! A sequence finds a block by its name, but only after it has found every block before. So a block
//! whose predecessor was used for something else is there and worthless, until that one is computed
//! again. Who is told of blocks should not have to know: this keeps the tree that the names are,
//! and says for each block when it begins to hang together with its beginning and when it ceases
//! to. What is told is then closed towards the beginning, which lets a gateway look up a prompt of
//! any length in a few steps.

use hashbrown::HashTable;

use crate::kv::{findable::Change, pool::BlockKey};

/// The tree of an engine's blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooted {
    nodes: Vec<Node>,
    /// Entries of `nodes` that stand for nothing.
    free: Vec<u32>,
    by_key: HashTable<(BlockKey, u32)>,
    rooted: usize,
}

/// A block that began to be found, or ceased to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) key: BlockKey,
    /// How many blocks are before it.
    pub(super) depth: u32,
    /// Whether it can be found now.
    pub(super) found: bool,
}

/// A block that is stored, or that stored ones follow.
#[derive(Clone, Debug)]
struct Node {
    key: BlockKey,
    parent: Parent,
    /// The first of those that follow it; they are a list.
    child: u32,
    next: u32,
    previous: u32,
    depth: u32,
    is_stored: bool,
    is_rooted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    /// It was never stored, so nobody has said.
    Unknown,
    /// It is a first block.
    None,
    Node(u32),
}

/// No node.
const NONE: u32 = u32::MAX;

impl Rooted {
    /// How many blocks can be found.
    pub(super) fn len(&self) -> usize {
        self.rooted
    }

    /// All blocks that can be found, with how many are before each.
    pub(super) fn found(&self) -> impl Iterator<Item = (BlockKey, u32)> + '_ {
        let rooted = self.nodes.iter().filter(|node| node.is_rooted);
        rooted.map(|node| (node.key, node.depth))
    }

    /// Takes one change and adds what turns by it.
    pub(super) fn take(&mut self, change: Change, turns: &mut Vec<Turn>) {
        match change {
            Change::Stored { key, parent } => self.store(key, parent, turns),
            Change::Removed(key) => self.remove(key, turns),
        }
    }

    fn store(&mut self, key: BlockKey, parent: Option<BlockKey>, turns: &mut Vec<Turn>) {
        let id = self.node(key);
        if self.at(id).is_stored {
            return;
        }
        self.at_mut(id).is_stored = true;
        if self.at(id).parent == Parent::Unknown {
            match parent {
                None => self.at_mut(id).parent = Parent::None,
                Some(parent) => {
                    let parent = self.node(parent);
                    self.link(id, parent);
                }
            }
        }
        let depth = match self.at(id).parent {
            Parent::None => Some(0),
            Parent::Node(parent) if self.at(parent).is_rooted => Some(self.at(parent).depth + 1),
            Parent::Node(_) | Parent::Unknown => None,
        };
        if let Some(depth) = depth {
            self.root(id, depth, turns);
        }
    }

    fn remove(&mut self, key: BlockKey, turns: &mut Vec<Turn>) {
        let Some(id) = self.find(key).filter(|id| self.at(*id).is_stored) else { return };
        self.at_mut(id).is_stored = false;
        if self.at(id).is_rooted {
            self.uproot(id, turns);
        }
        // Where others follow it, only its name stays for them: what is before it is said again
        // when it is stored again. So no more names are kept than twice the blocks.
        if let (Parent::Node(parent), true) = (self.at(id).parent, self.at(id).child != NONE) {
            self.unlink(id, parent);
            self.at_mut(id).parent = Parent::Unknown;
            self.prune(parent);
        } else {
            self.prune(id);
        }
    }

    /// A node and all stored ones after it can be found from now on.
    fn root(&mut self, id: u32, depth: u32, turns: &mut Vec<Turn>) {
        let mut open = vec![(id, depth)];
        while let Some((id, depth)) = open.pop() {
            self.rooted += 1;
            let node = self.at_mut(id);
            (node.is_rooted, node.depth) = (true, depth);
            turns.push(Turn { key: node.key, depth, found: true });
            open.extend(
                self.children(id).filter(|id| self.at(*id).is_stored).map(|id| (id, depth + 1)),
            );
        }
    }

    /// A node and all after it cannot be found any more.
    fn uproot(&mut self, id: u32, turns: &mut Vec<Turn>) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            self.rooted -= 1;
            let node = self.at_mut(id);
            node.is_rooted = false;
            turns.push(Turn { key: node.key, depth: node.depth, found: false });
            open.extend(self.children(id).filter(|id| self.at(*id).is_rooted));
        }
    }

    /// Forgets a node that stands for nothing, and those before it that then do as well.
    fn prune(&mut self, mut id: u32) {
        while !self.at(id).is_stored && self.at(id).child == NONE {
            let (key, parent) = (self.at(id).key, self.at(id).parent);
            if let Ok(entry) = self.by_key.find_entry(key as u64, |(own, _)| *own == key) {
                entry.remove();
            }
            self.free.push(id);
            let Parent::Node(parent) = parent else { return };
            self.unlink(id, parent);
            id = parent;
        }
    }

    fn children(&self, id: u32) -> impl Iterator<Item = u32> + '_ {
        let some = |id: u32| (id != NONE).then_some(id);
        std::iter::successors(some(self.at(id).child), move |id| some(self.at(*id).next))
    }

    fn link(&mut self, id: u32, parent: u32) {
        let first = std::mem::replace(&mut self.at_mut(parent).child, id);
        let node = self.at_mut(id);
        (node.parent, node.next, node.previous) = (Parent::Node(parent), first, NONE);
        if first != NONE {
            self.at_mut(first).previous = id;
        }
    }

    fn unlink(&mut self, id: u32, parent: u32) {
        let (next, previous) = (self.at(id).next, self.at(id).previous);
        match previous {
            NONE => self.at_mut(parent).child = next,
            previous => self.at_mut(previous).next = next,
        }
        if next != NONE {
            self.at_mut(next).previous = previous;
        }
    }

    fn find(&self, key: BlockKey) -> Option<u32> {
        // Keys are keyed hashes: the table needs no hash of its own.
        self.by_key.find(key as u64, |(own, _)| *own == key).map(|(_, id)| *id)
    }

    /// The node of this name, which is made if there is none.
    fn node(&mut self, key: BlockKey) -> u32 {
        if let Some(id) = self.find(key) {
            return id;
        }
        let node = Node {
            key,
            parent: Parent::Unknown,
            child: NONE,
            next: NONE,
            previous: NONE,
            depth: 0,
            is_stored: false,
            is_rooted: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                *self.at_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.by_key.insert_unique(key as u64, (key, id), |(key, _)| *key as u64);
        id
    }

    fn at(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    fn at_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// A tree in which block `n` follows block `n / 2`: 1 is a first block.
    fn parent(key: BlockKey) -> Option<BlockKey> {
        (key > 1).then_some(key / 2)
    }

    fn findable(stored: &BTreeSet<BlockKey>) -> BTreeMap<BlockKey, u32> {
        let mut found = BTreeMap::new();
        for &key in stored {
            let path: Vec<_> = std::iter::successors(Some(key), |key| parent(*key)).collect();
            if path.iter().all(|key| stored.contains(key)) {
                found.insert(key, path.len() as u32 - 1);
            }
        }
        found
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_hangs_together(
            changes in prop::collection::vec((any::<bool>(), 1_u128..32), 0..200),
        ) {
            let mut rooted = Rooted::default();
            let mut stored = BTreeSet::new();
            let mut told = BTreeMap::new();
            for (stores, key) in changes {
                let mut turns = Vec::new();
                if stores {
                    stored.insert(key);
                    rooted.take(Change::Stored { key, parent: parent(key) }, &mut turns);
                } else {
                    stored.remove(&key);
                    rooted.take(Change::Removed(key), &mut turns);
                }
                for Turn { key, depth, found } in turns {
                    let before =
                        if found { told.insert(key, depth) } else { told.remove(&key) };
                    prop_assert_eq!(before.is_none(), found, "a turn changes something");
                }
                let expected = findable(&stored);
                prop_assert_eq!(&told, &expected);
                prop_assert_eq!(rooted.len(), expected.len());
                prop_assert_eq!(&rooted.found().collect::<BTreeMap<_, _>>(), &expected);
                let known = rooted.nodes.len() - rooted.free.len();
                let stored = stored.len();
                prop_assert!(known <= 2 * stored, "{known} nodes for {stored} blocks");
            }
        }
    }
}
