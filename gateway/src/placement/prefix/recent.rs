//! Blocks that an endpoint will hold because prompts were sent there, as long as that is believed.
//!
//! Where a leader tells what it holds, belief lasts a few seconds: by then it has said so itself.
//! Where nobody tells, it lasts until so much else was sent there that the block has probably been
//! used for something else.
//!
//! A prompt's blocks are remembered last block first, so that what is forgotten first is its end,
//! and what is believed stays closed towards the beginning.

use std::{collections::VecDeque, time::Duration};

use hashbrown::HashTable;

/// What is believed of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    belief: Belief,
    /// Each block with the number of its latest mention.
    blocks: HashTable<(u128, u64)>,
    /// Mentions in their order. One that is not its block's latest means nothing.
    mentions: VecDeque<Mention>,
    /// The number of the next mention.
    next: u64,
}

/// How long a block is believed to be where it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belief {
    /// So long after it was last sent, if that is bounded.
    pub(super) time: Option<Duration>,
    /// While no more than so many others were sent since.
    pub(super) blocks: usize,
}

#[derive(Clone, Copy, Debug)]
struct Mention {
    hash: u128,
    number: u64,
    at: Duration,
}

impl Belief {
    /// Where the leader tells what it holds.
    pub(super) const TOLD: Self = Self { time: Some(Duration::from_secs(5)), blocks: 31_250 };
    /// Where nobody does; as many blocks as llm-d's router believes in.
    pub(super) const GUESSED: Self = Self { time: None, blocks: 31_250 };
}

impl Recent {
    pub(super) fn new(belief: Belief) -> Self {
        Self { belief, blocks: HashTable::new(), mentions: VecDeque::new(), next: 0 }
    }

    /// Believes otherwise from now on.
    pub(super) fn believe(&mut self, belief: Belief) {
        self.belief = belief;
    }

    /// A prompt was sent whose blocks are these; of each is said whether it is news, which those
    /// are not that the leader has told of.
    pub(super) fn sent(&mut self, now: Duration, hashes: &[u128], news: &[bool]) {
        for (&hash, &is_news) in hashes.iter().zip(news).rev() {
            let (number, part) = (self.next, hash as u64);
            match self.blocks.find_mut(part, |(own, _)| *own == hash) {
                Some((_, latest)) => *latest = number,
                None if is_news => {
                    self.blocks.insert_unique(part, (hash, number), |(hash, _)| *hash as u64);
                }
                None => continue,
            }
            self.next += 1;
            self.mentions.push_back(Mention { hash, number, at: now });
        }
        if self.mentions.len() > 2 * self.blocks.len() + SLACK {
            let blocks = &self.blocks;
            self.mentions.retain(|mention| is_latest(blocks, mention));
        }
    }

    /// The leader has spoken of a block: nothing needs to be believed of it.
    pub(super) fn told(&mut self, hash: u128) -> bool {
        match self.blocks.find_entry(hash as u64, |(own, _)| *own == hash) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// What is no longer believed.
    pub(super) fn forget(&mut self, now: Duration) -> Vec<u128> {
        let mut forgotten = Vec::new();
        while let Some(mention) = self.mentions.front().copied() {
            let is_old = self.belief.time.is_some_and(|time| mention.at + time <= now);
            if !is_old && self.blocks.len() <= self.belief.blocks {
                break;
            }
            self.mentions.pop_front();
            if is_latest(&self.blocks, &mention) {
                self.told(mention.hash);
                forgotten.push(mention.hash);
            }
        }
        forgotten
    }

    /// Everything that is believed.
    pub(super) fn all(&self) -> impl Iterator<Item = u128> + '_ {
        let latest = self.mentions.iter().filter(|mention| is_latest(&self.blocks, mention));
        latest.map(|mention| mention.hash)
    }

    /// How many blocks that is.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }
}

fn is_latest(blocks: &HashTable<(u128, u64)>, mention: &Mention) -> bool {
    let own = blocks.find(mention.hash as u64, |(own, _)| *own == mention.hash);
    own.is_some_and(|(_, number)| *number == mention.number)
}

/// Mentions that may be kept for nothing.
const SLACK: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_sent_is_believed_for_its_time_and_again_when_it_is_sent_again() {
        let mut recent = Recent::new(Belief { time: Some(3 * SECOND), blocks: 100 });
        recent.sent(SECOND, &[1, 2, 3], &[true; 3]);
        recent.sent(2 * SECOND, &[1, 2, 4], &[false, false, true]);
        recent.sent(2 * SECOND, &[8, 9], &[false; 2]);
        assert_eq!(recent.len(), 4);
        assert!(recent.told(1) && !recent.told(1) && !recent.told(9));
        assert_eq!(recent.forget(4 * SECOND), [3]);
        assert_eq!(recent.forget(5 * SECOND), [4, 2]);
        assert_eq!((recent.len(), recent.mentions.len()), (0, 0));
    }

    #[test]
    fn what_was_sent_long_ago_gives_way_end_first() {
        let mut recent = Recent::new(Belief { time: None, blocks: 4 });
        recent.sent(SECOND, &[1, 2, 3], &[true; 3]);
        recent.sent(SECOND, &[5, 6], &[true; 2]);
        assert_eq!(recent.forget(SECOND), [3]);
        recent.sent(SECOND, &[1, 7], &[true; 2]);
        assert_eq!(recent.forget(SECOND), [2]);
        let mut all: Vec<_> = recent.all().collect();
        all.sort_unstable();
        assert_eq!(all, [1, 5, 6, 7]);
    }

    #[test]
    fn mentions_of_the_same_blocks_stay_bounded() {
        let mut recent = Recent::new(Belief::GUESSED);
        for _ in 0..10_000 {
            recent.sent(SECOND, &[1, 2], &[true; 2]);
        }
        assert!(recent.mentions.len() <= 2 * SLACK, "{}", recent.mentions.len());
        assert_eq!(recent.all().count(), 2);
    }
}
