//! A follower under a leader that loses, repeats, reorders and lies.

use std::collections::BTreeSet;

use proptest::prelude::*;
use troupe_runtime::id::GroupId;

use super::*;

fn endpoint() -> EndpointId {
    let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
    EndpointId { group, revision: 1, epoch: Epoch { number: 4, nonce: 2 }, dp: 0 }
}

fn follow() -> Follow {
    Follow::new(endpoint(), 16, Digest([7; 32]))
}

fn params() -> CacheParams {
    CacheParams { endpoint: endpoint(), block_size: 16, blocks: 100, hashing: Digest([7; 32]) }
}

fn batch(seq: u64, stored: &[u128]) -> CacheBatch {
    let (epoch, stored) = (endpoint().epoch, stored.to_vec());
    CacheBatch { epoch, seq, stored, ..CacheBatch::default() }
}

fn part(seq: u64, part: u32, last: bool, held: &[u128]) -> CacheDown {
    let (epoch, held) = (endpoint().epoch, held.to_vec());
    CacheDown::Snapshot(CacheSnapshot { epoch, seq, part, last, held })
}

/// In a conversation that has begun well.
fn begun() -> Follow {
    let mut follow = follow();
    assert_eq!(follow.handle(NOW, Event::Begun), [Effect::Ask(None)]);
    let params = Event::Down(CacheDown::Params(params()));
    assert_eq!(follow.handle(NOW, params), [Effect::Believe]);
    follow
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn who_is_another_or_names_blocks_otherwise_is_refused() {
    type Lie = fn(&mut CacheParams);
    let lies: [(Lie, &str); 5] = [
        (|params| params.endpoint.epoch.number -= 1, "default/s-0"),
        (|params| params.endpoint.epoch.nonce += 1, "default/s-0"),
        (|params| params.endpoint.group.index = 3, "default/s-3"),
        (|params| params.block_size = 32, "blocks of 32 tokens"),
        (|params| params.hashing = Digest([8; 32]), "other parameters"),
    ];
    for (lie, why) in lies {
        let mut follow = follow();
        follow.handle(NOW, Event::Begun);
        let mut params = params();
        lie(&mut params);
        let effects = follow.handle(NOW, Event::Down(CacheDown::Params(params)));
        let [Effect::Refuse(refusal)] = effects.as_slice() else { panic!("{effects:?}") };
        assert!(refusal.to_string().contains(why), "{refusal}");
    }
}

#[test]
fn blocks_without_a_name_of_another_epoch_or_too_many_are_refused() {
    let mut unnamed = follow();
    unnamed.handle(NOW, Event::Begun);
    let said = Event::Down(CacheDown::Batch(batch(1, &[5])));
    assert_eq!(unnamed.handle(NOW, said), [Effect::Refuse(Refusal::Unnamed)]);

    let old = Epoch { number: 3, nonce: 9 };
    let said = Event::Down(CacheDown::Batch(CacheBatch { epoch: old, ..batch(1, &[5]) }));
    assert_eq!(begun().handle(NOW, said), [Effect::Refuse(Refusal::Epoch(old))]);

    let too_many = Effect::Refuse(Refusal::TooMany { held: 101, room: 100 });
    assert_eq!(begun().handle(NOW, Event::Holds(100)), []);
    assert_eq!(begun().handle(NOW, Event::Holds(101)), std::slice::from_ref(&too_many));
    let held: Vec<u128> = (0..101).collect();
    let effects = begun().handle(NOW, Event::Down(part(1, 0, true, &held)));
    assert_eq!(effects, [Effect::Begin, too_many]);
}

#[test]
fn what_is_missing_is_asked_for_and_again_if_it_does_not_come() {
    let mut follow = begun();
    let mut hear = |now, down| follow.handle(now, Event::Down(down));
    let asked = [Effect::Begin, Effect::Fill(vec![1]), Effect::Finish];
    assert_eq!(hear(NOW, part(5, 0, true, &[1])), asked);
    let (sixth, seventh) = (batch(6, &[2]), batch(7, &[3]));
    assert_eq!(hear(NOW, CacheDown::Batch(seventh.clone())), [Effect::Ask(Some(5))]);
    assert_eq!(hear(NOW, CacheDown::Batch(batch(8, &[4]))), [], "it is asked for already");
    let still = CacheStill { epoch: endpoint().epoch, seq: 8 };
    assert_eq!(hear(NOW, CacheDown::Still(still)), []);
    assert_eq!(follow.handle(NOW + PATIENCE / 2, Event::Tick), []);
    assert_eq!(follow.handle(NOW + PATIENCE, Event::Tick), [Effect::Ask(Some(5))]);
    let mut hear = |down| follow.handle(NOW + PATIENCE, Event::Down(down));
    assert_eq!(hear(CacheDown::Batch(sixth.clone())), [Effect::Apply(sixth.clone())]);
    assert_eq!(hear(CacheDown::Batch(sixth)), [], "a repetition");
    assert_eq!(hear(CacheDown::Batch(seventh.clone())), [Effect::Apply(seventh)]);
    assert_eq!(hear(CacheDown::Still(still)), [Effect::Ask(Some(7))], "the last one was lost");
    assert_eq!(follow.handle(NOW, Event::Begun), [Effect::Ask(Some(7))], "another conversation");
}

#[test]
fn a_snapshot_with_a_hole_is_none() {
    let mut follow = begun();
    let mut hear = |down| follow.handle(NOW, Event::Down(down));
    assert_eq!(hear(part(5, 0, false, &[1])), [Effect::Begin, Effect::Fill(vec![1])]);
    assert_eq!(hear(part(5, 2, true, &[3])), [], "it is asked for since the beginning");
    assert_eq!(hear(part(5, 0, false, &[1])), [Effect::Begin, Effect::Fill(vec![1])]);
    assert_eq!(hear(part(5, 1, true, &[2])), [Effect::Fill(vec![2]), Effect::Finish]);
    assert_eq!(hear(part(4, 0, true, &[9])), [], "an older one is no news");
}

#[test]
fn a_flood_makes_its_follower_slow() {
    let mut follow = begun();
    follow.handle(NOW, Event::Down(part(0, 0, true, &[])));
    let hashes: Vec<u128> = (0..50).collect();
    let mut now = NOW;
    let start = now;
    let mut told = 0;
    // Stored and removed again as fast as it is read: never too much at a time, and no end of it.
    for seq in 1..=100_000 {
        let removed = hashes.clone();
        let flood = CacheBatch { removed, ..batch(seq, &hashes) };
        told += 100 + PER_MESSAGE;
        for effect in follow.handle(now, Event::Down(CacheDown::Batch(flood))) {
            match effect {
                Effect::Pause(time) => now += time,
                Effect::Apply(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let fastest = (told - RATE - 200) * 1_000_000 / RATE;
    let took = (now - start).as_micros() as u64;
    assert!(took * 100 >= fastest * 99, "{took} us for what must take {fastest}");
}

/// What may happen to one message on its way.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    Late,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Late),
    ]
}

/// A leader that remembers its last few batches only, as the real one does in its time.
struct Leader {
    held: BTreeSet<u128>,
    batches: Vec<CacheBatch>,
}

const REMEMBERED: usize = 4;

impl Leader {
    fn change(&mut self, key: u128) -> CacheDown {
        let seq = self.batches.len() as u64 + 1;
        let mut change = batch(seq, &[]);
        if self.held.remove(&key) {
            change.removed = vec![key];
        } else {
            self.held.insert(key);
            change.stored = vec![key];
        }
        self.batches.push(change.clone());
        CacheDown::Batch(change)
    }

    fn answer(&self, since: Option<u64>) -> Vec<CacheDown> {
        let last = self.batches.len() as u64;
        let behind = since.map_or(usize::MAX, |since| (last - since) as usize);
        if behind <= REMEMBERED {
            let next = &self.batches[self.batches.len() - behind..];
            return next.iter().cloned().map(CacheDown::Batch).collect();
        }
        let held: Vec<u128> = self.held.iter().copied().collect();
        let (one, other) = held.split_at(held.len() / 2);
        vec![part(last, 0, false, one), part(last, 1, true, other)]
    }
}

proptest! {
    #[test]
    fn whatever_the_way_does_to_it_a_follower_is_right_in_the_end(
        changes in prop::collection::vec((0_u128..20, fate()), 1..60),
        fates in prop::collection::vec(fate(), 200),
    ) {
        let mut follow = begun();
        let mut leader = Leader { held: BTreeSet::new(), batches: Vec::new() };
        let (mut known, mut fresh) = (BTreeSet::new(), None);
        let mut fates = fates.into_iter();
        let mut now = NOW;
        // What was asked, what is on its way, and what will come later than what is said after it.
        let mut asked = vec![None];
        let mut late: Vec<CacheDown> = Vec::new();
        let mut step = |asked: &mut Vec<_>, now, event: Event| {
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                for effect in follow.handle(now, event) {
                    match effect {
                        Effect::Ask(since) => asked.push(since),
                        Effect::Apply(batch) => {
                            known.retain(|key| !batch.removed.contains(key));
                            known.extend(batch.stored);
                            events.push(Event::Holds(known.len()));
                        }
                        Effect::Begin => fresh = Some(BTreeSet::new()),
                        Effect::Fill(held) => fresh.as_mut().expect("begun").extend(held),
                        Effect::Finish => known = fresh.take().expect("begun"),
                        Effect::Believe | Effect::Pause(_) => {}
                        Effect::Refuse(why) => panic!("{why}"),
                    }
                }
            }
            known.clone()
        };
        for (key, fate) in changes {
            now += Duration::from_millis(100);
            let mut said = vec![(leader.change(key), fate)];
            for since in asked.drain(..) {
                let answer = leader.answer(since).into_iter();
                said.extend(answer.map(|down| (down, fates.next().unwrap_or(Fate::Arrives))));
            }
            let before = std::mem::take(&mut late);
            for (down, fate) in said {
                match fate {
                    Fate::Lost => continue,
                    Fate::Late => {
                        late.push(down);
                        continue;
                    }
                    Fate::Twice => _ = step(&mut asked, now, Event::Down(down.clone())),
                    Fate::Arrives => {}
                }
                step(&mut asked, now, Event::Down(down));
            }
            for down in before {
                step(&mut asked, now, Event::Down(down));
            }
            step(&mut asked, now, Event::Tick);
        }
        // Quiet: what is said now arrives, and it is said where the leader is.
        let mut known = BTreeSet::new();
        for _ in 0..8 {
            now += PATIENCE;
            let seq = leader.batches.len() as u64;
            let still = CacheDown::Still(CacheStill { epoch: endpoint().epoch, seq });
            known = step(&mut asked, now, Event::Down(still));
            step(&mut asked, now, Event::Tick);
            for since in std::mem::take(&mut asked) {
                for down in leader.answer(since) {
                    known = step(&mut asked, now, Event::Down(down));
                }
            }
        }
        prop_assert_eq!(known, leader.held);
    }
}
