//! Whoever follows a ledger, however badly, knows in the end what is held.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const EPOCH: Epoch = Epoch { number: 3, nonce: 1 };
const START: Duration = Duration::from_secs(1);

/// In chains of ten: block `n` follows block `n - 1`, unless it is a multiple of ten.
fn stored(key: BlockKey) -> Change {
    Change::Stored { key, parent: (!key.is_multiple_of(10)).then(|| key - 1) }
}

fn findable(stored: &BTreeSet<BlockKey>) -> BTreeSet<BlockKey> {
    let found = |key: &&BlockKey| (*key / 10 * 10..=**key).all(|before| stored.contains(&before));
    stored.iter().filter(found).copied().collect()
}

/// What a follower knows.
#[derive(Default)]
struct Follower {
    since: Option<u64>,
    held: BTreeSet<BlockKey>,
}

impl Follower {
    /// Takes what it is told, and looks at every single step that what it knows is closed.
    fn hear(&mut self, reading: Reading) {
        match reading {
            Reading::Nothing(_) => {}
            Reading::Snapshot { seq, held } => {
                self.since = Some(seq);
                self.held = held.into_iter().collect();
                assert_eq!(self.held, findable(&self.held));
            }
            Reading::Batches(batches) => {
                for batch in batches {
                    assert_eq!(
                        (batch.epoch, Some(batch.seq)),
                        (EPOCH, self.since.map(|at| at + 1))
                    );
                    self.since = Some(batch.seq);
                    if batch.cleared {
                        self.held.clear();
                    }
                    for key in &batch.removed {
                        assert!(self.held.remove(key), "it was held");
                        assert_eq!(self.held, findable(&self.held), "removed from the end");
                    }
                    for key in &batch.stored {
                        assert!(self.held.insert(*key), "it was not held");
                        assert_eq!(self.held, findable(&self.held), "stored from the beginning");
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn who_follows_knows_in_the_end_what_is_held(
        steps in prop::collection::vec(
            (
                prop::collection::vec((any::<bool>(), 0_u128..40), 0..12),
                any::<[bool; 3]>(),
                0_u64..8,
            ),
            1..60,
        ),
    ) {
        let mut ledger = Ledger::new(EPOCH);
        let mut now = START;
        let mut all = BTreeSet::new();
        let mut followers: [Follower; 3] = Default::default();
        for (changes, reads, pause) in steps {
            let change = |(stores, key): (bool, BlockKey)| {
                if stores {
                    all.insert(key);
                    stored(key)
                } else {
                    all.remove(&key);
                    Change::Removed(key)
                }
            };
            let changes = changes.into_iter().map(change).collect();
            ledger.note(now, changes);
            now += Duration::from_millis(pause);
            for (follower, reads) in followers.iter_mut().zip(reads) {
                if reads {
                    follower.hear(ledger.read(now, follower.since));
                }
            }
        }
        now += INTERVAL;
        for follower in &mut followers {
            while follower.since != Some(ledger.seq) || ledger.opened.is_some() {
                follower.hear(ledger.read(now, follower.since));
            }
            prop_assert_eq!(&follower.held, &findable(&all));
        }
    }
}

#[test]
fn a_batch_is_cut_when_it_is_due_and_what_came_and_went_in_it_is_not_told() {
    let mut ledger = Ledger::new(EPOCH);
    assert_eq!(ledger.read(START, Some(0)), Reading::Nothing(None));
    ledger.note(START, vec![stored(10), stored(11), stored(20)]);
    ledger.note(START + INTERVAL / 2, vec![Change::Removed(20)]);
    let due = START + INTERVAL;
    assert_eq!(ledger.read(START + INTERVAL / 2, Some(0)), Reading::Nothing(Some(due)));
    let Reading::Batches(batches) = ledger.read(due, Some(0)) else { panic!("it is due") };
    let batch = CacheBatch { epoch: EPOCH, seq: 1, stored: vec![10, 11], ..CacheBatch::default() };
    assert_eq!(batches, [Arc::new(batch)]);
    ledger.note(due, vec![stored(30), Change::Removed(30)]);
    assert_eq!(ledger.read(due + INTERVAL, Some(1)), Reading::Nothing(None));
}

#[test]
fn who_is_too_far_behind_or_ahead_gets_all_that_is_held() {
    let mut ledger = Ledger::new(EPOCH);
    let rounds = MOST_BATCHES as u32 + 10;
    for round in 1..=rounds {
        let now = START + 2 * round * INTERVAL;
        ledger.note(now, vec![stored(u128::from(round) * 10)]);
        let read = ledger.read(now + INTERVAL, Some(u64::from(round) - 1));
        assert!(matches!(read, Reading::Batches(_)), "{read:?}");
    }
    assert_eq!(ledger.batches.len(), MOST_BATCHES);
    let now = START + 3 * rounds * INTERVAL;
    for since in [None, Some(0), Some(9), Some(u64::from(rounds) + 1)] {
        let Reading::Snapshot { seq, held } = ledger.read(now, since) else { panic!("{since:?}") };
        assert_eq!((seq, held.len()), (u64::from(rounds), rounds as usize));
    }
    let Reading::Batches(next) = ledger.read(now, Some(10)) else { panic!("it is remembered") };
    assert_eq!((next.len(), next[0].seq), (MOST_AT_ONCE, 11));
}

#[test]
fn most_going_at_once_is_told_as_all() {
    let mut ledger = Ledger::new(EPOCH);
    ledger.note(START, (0..10).map(stored).collect());
    let mut follower = Follower::default();
    follower.hear(ledger.read(START, None));
    ledger.note(START, (1..10).rev().map(Change::Removed).collect());
    let read = ledger.read(START + INTERVAL, Some(1));
    let Reading::Batches(batches) = &read else { panic!("{read:?}") };
    assert!(batches[0].cleared && batches[0].removed.is_empty());
    follower.hear(read);
    assert_eq!(follower.held, [0].into());
}

#[test]
fn notes_that_nobody_reads_stay_bounded() {
    let mut ledger = Ledger::new(EPOCH);
    for round in 0..3 * MOST_KEPT as u128 / 10 {
        ledger.note(START, (round * 10..round * 10 + 10).map(stored).collect());
        ledger.note(START, (round * 10..round * 10 + 10).rev().map(Change::Removed).collect());
        assert!(ledger.open.len() <= MOST_OPEN + 10 && ledger.kept <= MOST_KEPT);
    }
    assert!(ledger.rooted.len() <= 10);
}
