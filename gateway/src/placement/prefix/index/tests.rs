//! The index against a model that is a list, and with readers beside a writer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;

use super::*;

/// The blocks of one of a few prompts: two beginnings, each of which goes on in four ways.
fn prompt(number: u8, len: usize) -> Vec<u128> {
    let beginning = u128::from(number % 2);
    let own = u128::from(number % 8);
    let block =
        |at: u128| if at < 20 { 1_000 * (beginning + 1) + at } else { 10_000 * (own + 1) + at };
    // As hashes are: all bits differ.
    (0..len as u128).map(|at| spread(block(at))).collect()
}

fn spread(number: u128) -> u128 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

#[derive(Clone, Debug)]
enum Step {
    /// This one holds the first blocks of a prompt.
    Store { who: usize, prompt: u8, len: usize },
    /// It loses all from a block of a prompt on.
    Lose { who: usize, prompt: u8, from: usize },
    /// It is gone, and another comes in its place.
    Leave { who: usize },
}

fn steps(endpoints: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..endpoints, any::<u8>(), 0_usize..60)
            .prop_map(|(who, prompt, len)| Step::Store { who, prompt, len }),
        3 => (0..endpoints, any::<u8>(), 0_usize..60)
            .prop_map(|(who, prompt, from)| Step::Lose { who, prompt, from }),
        1 => (0..endpoints).prop_map(|who| Step::Leave { who }),
    ];
    prop::collection::vec(step, 1..80)
}

/// What is after these blocks in any prompt, and them.
fn after(held: &BTreeSet<u128>, blocks: &[u128], from: usize) -> Vec<u128> {
    let Some(first) = blocks.get(from) else { return Vec::new() };
    let mut lost: BTreeSet<u128> = BTreeSet::new();
    for number in 0..8 {
        let other = prompt(number, 60);
        if other.get(from) == Some(first) {
            lost.extend(other[from..].iter().filter(|block| held.contains(block)));
        }
    }
    lost.into_iter().collect()
}

fn agrees(index: &Index, owners: &[Owner], held: &[BTreeSet<u128>]) -> Result<(), TestCaseError> {
    for number in 0..8 {
        for len in [0, 1, 2, 19, 20, 21, 60] {
            let blocks = prompt(number, len);
            let runs = index.runs(&blocks);
            for (owner, held) in owners.iter().zip(held) {
                let run = blocks.iter().take_while(|block| held.contains(block)).count();
                prop_assert_eq!(runs.of(*owner), run as u32, "prompt {} of {}", number, len);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn everybodys_run_is_what_a_walk_over_all_blocks_finds(
        (endpoints, steps) in (1_usize..12).prop_flat_map(|count| (Just(count), steps(count))),
    ) {
        let index = Index::default();
        let claim = || {
            let owner = index.claim().unwrap();
            index.show(owner);
            owner
        };
        let mut owners: Vec<Owner> = (0..endpoints).map(|_| claim()).collect();
        let mut held = vec![BTreeSet::new(); endpoints];
        for step in steps {
            match step {
                Step::Store { who, prompt: number, len } => {
                    let blocks = prompt(number, len);
                    let mut news = 0;
                    index.add(owners[who], &blocks, |_, is_new| news += usize::from(is_new));
                    let before = held[who].len();
                    held[who].extend(blocks);
                    prop_assert_eq!(news, held[who].len() - before);
                }
                Step::Lose { who, prompt: number, from } => {
                    let lost = after(&held[who], &prompt(number, 60), from);
                    prop_assert_eq!(index.remove(owners[who], &lost), lost.len());
                    held[who].retain(|block| !lost.contains(block));
                    prop_assert_eq!(index.remove(owners[who], &lost), 0);
                }
                Step::Leave { who } => {
                    index.retire(owners[who]);
                    held[who].clear();
                    owners[who] = claim();
                }
            }
            agrees(&index, &owners, &held)?;
        }
        for _ in 0..2 {
            index.writer().sweep(usize::MAX, &index.rows);
        }
        let all: BTreeSet<u128> = held.iter().flatten().copied().collect();
        prop_assert_eq!(index.blocks(), all.len(), "what is gone takes no room");
        agrees(&index, &owners, &held)?;
    }
}

#[test]
fn it_grows_and_what_is_in_it_stays() {
    let index = Index::default();
    let owners: Vec<Owner> = (0..3).map(|_| index.claim().unwrap()).collect();
    let chain = |who: usize| -> Vec<u128> {
        (0..30_000_u128).map(|at| spread(at + 100_000 * who as u128)).collect()
    };
    for (who, owner) in owners.iter().enumerate() {
        index.show(*owner);
        index.add(*owner, &chain(who), |_, is_new| assert!(is_new));
    }
    assert_eq!(index.blocks(), 90_000);
    for (who, owner) in owners.iter().enumerate() {
        let runs = index.runs(&chain(who));
        let expected = |other| if other == *owner { 30_000 } else { 0 };
        assert!(owners.iter().all(|other| runs.of(*other) == expected(*other)));
    }
    let per_block = index.bytes() / index.blocks();
    assert!(per_block < 64, "{per_block} bytes for each block");
}

#[test]
fn more_than_all_numbers_can_come_and_go_but_not_be_there_together() {
    let index = Index::default();
    let blocks = prompt(0, 30);
    let all: Vec<Owner> = std::iter::from_fn(|| index.claim()).collect();
    assert_eq!(all.len(), MOST_OWNERS);
    for owner in &all {
        index.show(*owner);
        index.add(*owner, &blocks, |_, _| {});
    }
    let runs = index.runs(&blocks);
    assert!(all.iter().all(|owner| runs.of(*owner) == 30));
    index.retire(all[7]);
    let again = index.claim().expect("one is free again");
    assert_eq!(index.claim(), None);
    index.show(again);
    assert_eq!(index.runs(&blocks).of(again), 0, "it has nothing of the one before");
}

#[test]
fn readers_beside_a_writer_find_what_stays() {
    let index = Index::default();
    let stays = index.claim().unwrap();
    index.show(stays);
    let kept: Vec<u128> = (0..2_000).map(spread).collect();
    index.add(stays, &kept, |_, _| {});
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut looks = 0_u32;
                while !done.load(Ordering::Relaxed) || looks == 0 {
                    let len = 1 + looks as usize * 37 % kept.len();
                    assert_eq!(index.runs(&kept[..len]).of(stays), len as u32);
                    looks += 1;
                }
            });
        }
        let mut others: BTreeMap<u32, Owner> = BTreeMap::new();
        for round in 0..400_u32 {
            let owner = index.claim().unwrap();
            index.show(owner);
            // Its own blocks, which make the table grow, and a part of what stays.
            let own: Vec<u128> =
                (0..300).map(|at| spread(1_000_000 + u128::from(round) * 1_000 + at)).collect();
            index.add(owner, &own, |_, _| {});
            index.add(owner, &kept[..500], |_, _| {});
            index.remove(owner, &own[100..]);
            others.insert(round, owner);
            if let Some(old) = round.checked_sub(20).and_then(|old| others.remove(&old)) {
                index.retire(old);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
