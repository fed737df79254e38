//! Pools as sequences use them: growth, hits, copies, fences.

use super::*;
use crate::kv::hit::PrefixKeys;

const NOW: StepId = StepId(9);

fn keys(full: &[BlockKey]) -> PrefixKeys<'_> {
    PrefixKeys { full, end: None }
}

/// Two full blocks of four positions and a prompt that ends after ten, all written by step 1.
fn with_ten_positions(total: u32) -> (BlockPools, BlockTables) {
    let mut pools = BlockPools::new(4, &[total]);
    let mut tables = pools.admit(&Hit::default(), 10).tables;
    for (index, key) in [(0, 100), (1, 101), (2, 777)] {
        pools.name(&tables, index, (key, None), StepId(1));
    }
    pools.release(&mut tables, None, true);
    (pools, tables)
}

#[test]
fn grows_in_all_groups_or_none_and_gives_everything_back() {
    let mut pools = BlockPools::new(16, &[4, 3]);
    let mut tables = pools.tables();
    assert_eq!(pools.grow(&mut tables, 17)[0].len(), 2);
    assert!(pools.grow(&mut tables, 32).is_empty(), "there is room in the last block");
    assert!(!pools.can_grow(&tables, 64), "group 1 has three blocks only");
    assert_eq!((pools.usage().held, pools.usage().total), (2, 3));
    pools.check_integrity([&tables].into_iter()).expect("all blocks are accounted for");
    pools.release(&mut tables, None, true);
    assert_eq!(pools.usage().held, 0);
    pools.check_integrity(std::iter::empty()).expect("all blocks are free");
}

#[test]
fn integrity_names_a_block_that_was_lost_or_doubled() {
    let mut pools = BlockPools::new(16, &[4]);
    let mut tables = pools.tables();
    pools.grow(&mut tables, 20);
    let doubled = [tables.clone(), tables.clone()];
    assert!(pools.check_integrity(doubled.iter()).expect_err("held twice").contains("2 times"));
    assert!(pools.check_integrity(std::iter::empty()).expect_err("lost").contains("0 times"));
}

#[test]
fn a_hit_shares_full_blocks_and_copies_the_one_it_will_write() {
    let (mut pools, _) = with_ten_positions(8);
    let prefix = PrefixKeys { full: &[100, 101], end: Some((777, 10)) };
    let hit = pools.find(prefix, 9, NOW);
    assert_eq!(hit.positions, 9, "all but the last token, which gives the logits");
    let admitted = pools.admit(&hit, 10);
    assert_eq!((admitted.shared, admitted.copies.len()), (2, 1));
    assert_eq!(admitted.copies[0].to, admitted.tables[0][2]);
    assert_ne!(admitted.copies[0].from, admitted.copies[0].to);
    pools.check_integrity([&admitted.tables].into_iter()).expect("shared blocks are held");
}

#[test]
fn a_hit_of_whole_blocks_still_leaves_the_last_token() {
    let (pools, _) = with_ten_positions(8);
    let hit = pools.find(keys(&[100, 101]), 7, NOW);
    assert_eq!((hit.positions, hit.shared[0].len(), hit.source.len()), (7, 1, 1));
    // Block 1 was written by step 1, so step 1 itself cannot copy it, but share block 0.
    assert_eq!(pools.find(keys(&[100, 101]), 7, StepId(1)).positions, 4);
    assert_eq!(pools.find(keys(&[100, 555]), 7, NOW).positions, 4);
    assert_eq!(
        pools.find(keys(&[555, 101]), 7, NOW),
        Hit { shared: vec![vec![]], ..Hit::default() }
    );
}

#[test]
fn revived_blocks_are_not_counted_as_room() {
    let (mut pools, _) = with_ten_positions(3);
    let hit = pools.find(keys(&[100, 101]), 11, NOW);
    assert!(pools.can_admit(&hit, 12, 0), "two shared and one own");
    assert!(!pools.can_admit(&hit, 13, 0) && !pools.can_admit(&hit, 12, 1));
    let admitted = pools.admit(&hit, 12);
    assert_eq!(pools.find(keys(&[100, 101]), 8, NOW).positions, 8, "still found while held");
    pools.check_integrity([&admitted.tables].into_iter()).expect("in place");
}

#[test]
fn a_fence_holds_blocks_until_its_step_is_done() {
    let mut pools = BlockPools::new(4, &[2]);
    let mut tables = pools.admit(&Hit::default(), 8).tables;
    pools.release(&mut tables, Some(StepId(3)), true);
    let none = pools.tables();
    assert!(!pools.can_grow(&none, 4) && pools.can_grow_later(&none, 8));
    pools.check_integrity(std::iter::empty()).expect("fenced blocks are held");
    pools.step_done(StepId(2));
    assert!(!pools.can_grow(&none, 4));
    pools.step_done(StepId(3));
    assert!(pools.can_grow(&none, 8));
}

#[test]
fn equal_blocks_become_one() {
    let mut pools = BlockPools::new(4, &[4]);
    let first = pools.admit(&Hit::default(), 4).tables;
    let mut second = pools.admit(&Hit::default(), 4).tables;
    pools.name(&first, 0, (5, None), StepId(1));
    pools.name(&second, 0, (5, None), StepId(1));
    let swaps = pools.merge(&mut second, 0, 5, Some(StepId(2)));
    assert_eq!(swaps, [BlockSwap { group: 0, index: 0, block: first[0][0] }]);
    assert_eq!(second, first);
    pools.check_integrity([&first, &second].into_iter()).expect("one block held twice, one fenced");
    pools.step_done(StepId(2));
    assert_eq!(pools.usage().held, 1);
    assert!(pools.merge(&mut second, 0, 5, None).is_empty(), "nothing left to merge");
}

/// Blocks of two positions; group 0 sees everything, group 1 the last three positions.
fn with_a_window(total: u32) -> BlockPools {
    BlockPools::new(2, &[total, total]).with_windows(&[None, Some(3)])
}

fn named(pools: &mut BlockPools, positions: u32, keys: &[BlockKey]) -> BlockTables {
    let tables = pools.admit(&Hit::default(), positions).tables;
    for (index, key) in (0..).zip(keys) {
        pools.name(&tables, index, (*key, None), StepId(1));
    }
    tables
}

#[test]
fn what_left_a_window_is_given_back_and_nothing_else() {
    let mut pools = with_a_window(6);
    let mut tables = named(&mut pools, 10, &[100, 101, 102, 103, 104]);
    let held = |tables: &BlockTables| [&tables[0], &tables[1]].map(|table| kept(table).count());
    // Position 4 sees 2 to 4, position 5 sees 3 to 5, which begins in the same block.
    for (next, left) in [(0, 0), (3, 0), (4, 1), (5, 1), (6, 2), (6, 2)] {
        pools.release_left(&mut tables, next, None, true);
        assert_eq!(held(&tables), [5, 5 - left], "before position {next}");
        pools.check_integrity([&tables].into_iter()).expect("the rest is held");
    }
    pools.release_left(&mut tables, 10, Some(StepId(4)), true);
    assert_eq!(held(&tables), [5, 1]);
    pools.check_integrity([&tables].into_iter()).expect("some are fenced");
    pools.step_done(StepId(4));
    pools.release(&mut tables, None, true);
    pools.check_integrity(std::iter::empty()).expect("nothing is held twice or lost");
}

#[test]
fn a_hit_needs_what_its_next_position_sees() {
    let all = [100, 101, 102, 103];
    let mut pools = BlockPools::new(2, &[4]).with_windows(&[Some(3)]);
    let mut tables = named(&mut pools, 8, &all);
    pools.release_left(&mut tables, 8, None, true);
    // Two new blocks: what left first is used again.
    let mut others = pools.admit(&Hit::default(), 4).tables;
    assert_eq!(
        [100, 101, 102, 103].map(|key| pools.find_in(0, key).is_some()),
        [false, false, true, true]
    );
    let hit = pools.find(keys(&all), 8, NOW);
    assert_eq!(
        (hit.positions, hit.shared[0].as_slice()),
        (8, &[GONE, GONE, GONE, tables[0][3]][..])
    );
    let hit = pools.find(keys(&all), 7, NOW);
    assert_eq!((hit.positions, hit.source.len()), (7, 1), "the last block's beginning is copied");
    // Before position 4 a query sees 2 and 3, and block 1 is not there any more.
    assert_eq!(pools.find(keys(&all[..2]), 4, NOW).positions, 0);
    pools.release(&mut others, None, false);
    let admitted = pools.admit(&hit, 8);
    pools.check_integrity([&tables, &admitted.tables].into_iter()).expect("gone is held by none");
    assert_eq!(pools.usage().held, 3, "the first has one, the second two");
}

#[test]
fn a_group_that_sees_everything_decides_over_one_with_a_window() {
    let mut pools = with_a_window(8);
    let mut tables = named(&mut pools, 8, &[100, 101, 102, 103]);
    pools.release(&mut tables, None, true);
    let hit = pools.find(keys(&[100, 101, 555, 103]), 8, NOW);
    assert_eq!(hit.positions, 4);
    assert_eq!(kept(&hit.shared[0]).count(), 2, "all of its blocks");
    assert_eq!(hit.shared[1][0], GONE, "position 4 sees 2 to 4");
}
