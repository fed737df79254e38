//! A group whose device is small and whose host keeps what it gives up: conversations come back
//! after others have taken their blocks. Whatever is kept, lost or canceled meanwhile, every
//! request gets the tokens that it would get alone, and no slot stays pinned.

use std::time::Duration;

use troupe_actors::leader::{engine::EngineEvent, request::RequestKey};
use troupe_runtime::{
    id::RequestId,
    spec::service::Eviction,
    wire::generate::{Choice, Generate, OutputKind, SamplingOptions},
};
use uuid::Uuid;

use super::{
    books::{follows, key},
    harness::{Shape, digest},
    properties::Dice,
    side::{Side, endpoint_of},
    transfers::shape,
};

struct World {
    now: Duration,
    dice: Dice,
    side: Side,
    /// What each conversation has come to.
    conversations: Vec<Vec<u32>>,
    open: Vec<RequestKey>,
    asked: u64,
    /// In how many of a hundred cases somebody gives up.
    canceled: usize,
}

impl World {
    fn new(seed: u64, (tensor, stages): (u32, u32), change: impl Fn(&mut Shape)) -> Self {
        let mut shape = shape(stages, 14);
        shape.kept = (40, 0);
        shape.eviction = if seed.is_multiple_of(2) { Eviction::Lru } else { Eviction::Arc };
        change(&mut shape);
        Self {
            now: Duration::from_secs(10),
            dice: Dice(seed),
            side: Side::new(shape, tensor, 1),
            conversations: vec![Vec::new(); 5],
            open: Vec::new(),
            asked: 0,
            canceled: 0,
        }
    }

    /// Somebody goes on with a conversation, or begins it anew where it has become too long.
    fn arrive(&mut self) {
        let Shape { vocab_size, window, blocks, block_size, .. } = self.side.shape;
        self.asked += 1;
        let at = self.dice.roll(self.conversations.len());
        let said = &mut self.conversations[at];
        if said.len() > 40 {
            said.truncate(8);
        }
        said.extend((0..1 + self.dice.roll(9)).map(|_| self.dice.roll(50) as u32));
        let prompt = said.clone();
        let max_tokens = self.dice.roll(7) as u32;
        for _ in 0..max_tokens {
            let next = follows(said, vocab_size, window);
            said.push(next);
        }
        let choices = if self.dice.roll(8) == 0 { 2 } else { 1 };
        let generate = Generate {
            request: RequestId(Uuid::from_u128(self.asked.into())),
            attempt: 0,
            alone: false,
            endpoint: endpoint_of(1),
            tenant: String::new(),
            priority: 0,
            time_left_ms: 3_600_000,
            prompt,
            block_hashes: vec![],
            hash_block_size: 0,
            hash_seed: 0,
            adapter: None,
            cache_salt: None,
            output: OutputKind::Tokens,
            options: SamplingOptions { max_tokens, ..SamplingOptions::default() },
            seed: self.asked,
            choices: (0..choices).map(|index| Choice { index, output: Vec::new() }).collect(),
            kv_source: None,
            traceparent: None,
            model: digest(),
            tokenizer: digest(),
        };
        self.side.books.asked(&generate, blocks * block_size);
        self.open.push(key(&generate));
        self.side.event(self.now, EngineEvent::Submit(Box::new(generate)));
    }

    fn cancel(&mut self) {
        let at = self.dice.roll(self.open.len().max(1));
        let Some(key) = (at < self.open.len()).then(|| self.open.swap_remove(at)) else { return };
        if self.side.books.is_open(key) {
            self.side.books.over(key);
            self.side.event(self.now, EngineEvent::Abort(key));
        }
    }

    /// Lets things happen in a random order until nothing is left to happen.
    fn run(&mut self, requests: u64) {
        let rarely = 1 + self.dice.roll(12);
        for _ in 0..MOST_EVENTS {
            let turns = self.side.turns();
            let idle = turns.is_empty();
            if self.asked < requests && (idle || self.dice.roll(rarely) == 0) {
                self.arrive();
                continue;
            }
            if self.dice.roll(100) < self.canceled && self.dice.roll(20) == 0 {
                self.cancel();
            }
            match turns.get(self.dice.roll(turns.len().max(1))) {
                // One that is closed meanwhile may have nothing to do any more.
                Some(turn) if self.side.turns().contains(turn) => {
                    self.side.take(self.now, *turn);
                }
                Some(_) => {}
                None if self.side.engine.open_requests() == 0 => {
                    self.side.check_the_end(self.now);
                    return;
                }
                None => {
                    self.now += Duration::from_millis(500);
                    self.side.event(self.now, EngineEvent::Tick);
                }
            }
        }
        panic!("no end after {MOST_EVENTS} events: {:?}", self.side.engine.load());
    }
}

/// Runs many seeds and returns the tokens that came from tiers, and those that were to come.
fn seeds(
    first: u64,
    count: u64,
    change: impl Fn(&mut Shape) + Copy,
    faults: impl Fn(&mut World),
) -> (u64, u64) {
    let mut sum = (0, 0);
    for seed in first..first + count {
        let mut world = World::new(seed, SIZES[seed as usize % SIZES.len()], change);
        faults(&mut world);
        world.run(24);
        sum.0 += world.side.loaded.0;
        sum.1 += world.side.loaded.1;
    }
    sum
}

#[test]
fn conversations_come_back_from_memory() {
    let (came, wanted) = seeds(0, 200, |_| {}, |_| {});
    assert!(came > 5_000, "{came} tokens came");
    assert_eq!(came, wanted, "nothing is lost where nothing fails");
}

#[test]
fn conversations_come_back_from_memory_and_from_the_disk() {
    let (came, wanted) = seeds(1000, 200, |shape| shape.kept = (6, 40), |_| {});
    assert!(came > 5_000, "{came} tokens came");
    assert_eq!(came, wanted, "nothing is lost where nothing fails");
}

#[test]
fn what_a_rank_has_not_kept_is_computed() {
    let forgetful = |world: &mut World| world.side.forgetful = 10;
    let (came, wanted) = seeds(2000, 200, |shape| shape.kept = (8, 20), forgetful);
    assert!(came > 1_000 && came < wanted, "{came} of {wanted} tokens came");
}

#[test]
fn whoever_gives_up_leaves_nothing_behind() {
    let faults = |world: &mut World| (world.canceled, world.side.forgetful) = (60, 2);
    let (came, _) = seeds(3000, 200, |shape| shape.kept = (8, 20), faults);
    assert!(came > 1_000, "{came} tokens came");
}

#[test]
fn windows_of_layers_come_back_whole_or_not_at_all() {
    let windows = |shape: &mut Shape| (shape.kept, shape.window) = ((30, 10), Some(9));
    let (came, _) = seeds(4000, 200, windows, |world| world.canceled = 10);
    assert!(came > 1_000, "{came} tokens came");
}

/// (tensor ranks, stages).
const SIZES: [(u32, u32); 5] = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 3)];
/// Some requests of some hundred events each end long before.
const MOST_EVENTS: usize = 60_000;
