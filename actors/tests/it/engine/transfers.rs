//! Two groups, and KV blocks from one to the other over a network that loses, repeats, reorders and
//! spoils them, while requests are canceled, blocks are used again and a side dies: every request
//! gets the tokens that it would get alone, and no block is left behind.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use troupe_actors::{
    leader::{engine::EngineEvent, request::RequestKey, transfers::TransferEvent},
    scheduler::Policy,
    worker::transfer::{Sealed, inspect},
};
use troupe_runtime::{
    id::{Coordinate, EndpointId, RequestId, TransferId},
    spec::service::Eviction,
    wire::{
        generate::{Choice, Generate, KvSource, OutputKind, SamplingOptions},
        transfer::{Prefill, PrefillDown},
    },
};
use uuid::Uuid;

use super::{
    books::key,
    harness::{Shape, digest},
    properties::Dice,
    side::{Said, Side, Turn, endpoint_of},
};

/// In how many of a hundred cases something goes wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: usize,
    repeated: usize,
    spoiled: usize,
    canceled: usize,
    dies: bool,
    /// Only what the other side has cached is asked for.
    cached: bool,
}

/// What is on its way between the leaders.
enum Word {
    Ask(Box<Prefill>),
    Leave(TransferId),
    Answer(TransferId, PrefillDown),
    Lost(TransferId),
}

struct World {
    now: Duration,
    dice: Dice,
    faults: Faults,
    decode: Side,
    prefill: Side,
    /// The prefill side's epoch: it may die and come back.
    epoch: u64,
    frames: Vec<(TransferId, Coordinate, Sealed)>,
    /// To the decode side and to the prefill side, each in order.
    words: [VecDeque<Word>; 2],
    open: Vec<RequestKey>,
    asked: u64,
    prefill_tensor: u32,
}

pub(super) fn shape(stages: u32, blocks: u32) -> Shape {
    Shape {
        stages,
        budget: 12,
        sequences: 4,
        block_size: 4,
        blocks,
        threshold: 0,
        policy: Policy::Fcfs,
        prefix_caching: true,
        speculation: None,
        vocab_size: 50,
        window: None,
        kept: (0, 0),
        eviction: Eviction::Lru,
    }
}

/// (tensor ranks, stages) of the decode side and of the prefill side.
const PAIRS: [[(u32, u32); 2]; 8] = [
    [(1, 1), (1, 1)],
    [(1, 2), (4, 1)],
    [(2, 1), (1, 2)],
    [(1, 1), (2, 2)],
    [(4, 1), (1, 1)],
    [(2, 2), (1, 4)],
    [(1, 3), (2, 1)],
    [(8, 1), (2, 2)],
];

impl World {
    fn new(seed: u64, pair: [(u32, u32); 2], faults: Faults, change: impl Fn(&mut Shape)) -> Self {
        let mut dice = Dice(seed);
        let [decode, prefill] = pair;
        let mut side = |(tensor, stages), number| {
            let mut shape = shape(stages, 30 + dice.roll(40) as u32);
            change(&mut shape);
            Side::new(shape, tensor, number)
        };
        let (decode, from) = (side(decode, 1), side(prefill, 2));
        Self {
            now: Duration::from_secs(10),
            dice,
            faults,
            decode,
            prefill: from,
            epoch: 2,
            frames: Vec::new(),
            words: Default::default(),
            open: Vec::new(),
            asked: 0,
            prefill_tensor: prefill.0,
        }
    }

    fn request(&mut self, endpoint: EndpointId, source: Option<EndpointId>) -> Generate {
        self.asked += 1;
        let family = self.dice.roll(3) as u32;
        let shared = self.dice.roll(40) as u32;
        let own = 1 + self.dice.roll(20);
        let mut prompt: Vec<u32> = (0..shared).map(|at| (at * 7 + family * 13) % 50).collect();
        prompt.extend((0..own).map(|_| self.dice.roll(50) as u32));
        let choices = if self.dice.roll(6) == 0 { 2 } else { 1 };
        let choice = |index| Choice { index, output: Vec::new() };
        Generate {
            request: RequestId(Uuid::from_u128(self.asked.into())),
            attempt: 0,
            alone: false,
            endpoint,
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
            options: SamplingOptions {
                max_tokens: self.dice.roll(12) as u32,
                ..SamplingOptions::default()
            },
            seed: self.asked,
            choices: (0..choices).map(choice).collect(),
            kv_source: source.map(|endpoint| KvSource {
                endpoint,
                address: "there".into(),
                cached: self.faults.cached.then(|| 4 * (1 + self.dice.roll(8)) as u32),
            }),
            traceparent: None,
            model: digest(),
            tokenizer: digest(),
        }
    }

    fn arrive(&mut self) {
        let source = endpoint_of(self.epoch);
        let generate = self.request(endpoint_of(1), Some(source));
        let longest = self.decode.shape.blocks * self.decode.shape.block_size;
        self.decode.books.asked(&generate, longest);
        self.open.push(key(&generate));
        self.decode.event(self.now, EngineEvent::Submit(Box::new(generate)));
    }

    /// The prefill side has requests of its own, which use its blocks.
    fn arrive_there(&mut self) {
        let generate = self.request(endpoint_of(self.epoch), None);
        let longest = self.prefill.shape.blocks * self.prefill.shape.block_size;
        self.prefill.books.asked(&generate, longest);
        self.prefill.event(self.now, EngineEvent::Submit(Box::new(generate)));
    }

    fn cancel(&mut self) {
        let at = self.dice.roll(self.open.len().max(1));
        let Some(key) = (at < self.open.len()).then(|| self.open.swap_remove(at)) else { return };
        if self.decode.books.is_open(key) {
            self.decode.books.over(key);
            self.decode.event(self.now, EngineEvent::Abort(key));
        }
    }

    /// The prefill side is gone, with all that it had; another incarnation takes its place. What it
    /// had sent may still be on its way.
    fn die(&mut self) {
        self.epoch += 1;
        let shape = self.prefill.shape;
        self.prefill = Side::new(shape, self.prefill_tensor, self.epoch);
        let words = self.words.iter_mut().flat_map(|words| words.drain(..));
        let lost: Vec<_> = words
            .map(|word| match word {
                Word::Ask(prefill) => prefill.transfer,
                Word::Answer(transfer, _) | Word::Leave(transfer) | Word::Lost(transfer) => {
                    transfer
                }
            })
            .collect();
        let sent = self.frames.iter().map(|(transfer, _, _)| *transfer);
        let open = self.decode.inboxes.keys().map(|(transfer, _)| *transfer);
        let mut all: Vec<_> = lost.into_iter().chain(sent).chain(open).collect();
        all.sort_unstable();
        all.dedup();
        self.words[0].extend(all.into_iter().map(Word::Lost));
    }

    /// What the sides have said is on its way.
    fn carry(&mut self) {
        while let Some(said) = self.decode.said.pop_front() {
            match said {
                Said::Ask(prefill) => self.words[1].push_back(Word::Ask(prefill)),
                Said::Leave(transfer) => self.words[1].push_back(Word::Leave(transfer)),
                Said::Answer(..) | Said::Hang(_) => panic!("nobody asked the decode side"),
            }
        }
        while let Some(said) = self.prefill.said.pop_front() {
            match said {
                Said::Answer(transfer, down) => {
                    self.words[0].push_back(Word::Answer(transfer, down));
                }
                Said::Hang(transfer) => self.words[0].push_back(Word::Lost(transfer)),
                Said::Ask(_) | Said::Leave(_) => panic!("the prefill side asks nobody"),
            }
        }
        for (transfer, to, line) in &mut self.prefill.lines {
            while self.frames.len() < 64
                && let Ok(frame) = line.try_recv()
            {
                self.frames.push((*transfer, *to, frame));
            }
        }
    }

    fn hear(&mut self, side: usize) {
        let Some(word) = self.words[side].pop_front() else { return };
        let now = self.now;
        match word {
            Word::Ask(prefill) => self.prefill.transfer(now, TransferEvent::Asked(prefill)),
            Word::Leave(transfer) => self.prefill.transfer(now, TransferEvent::Gone(transfer)),
            Word::Answer(transfer, down) => {
                self.decode.transfer(now, TransferEvent::Answered(transfer, down));
            }
            Word::Lost(transfer) => {
                self.decode.transfer(now, TransferEvent::Lost(transfer, "gone".into()));
            }
        }
    }

    /// Some frame arrives, or what is left of it.
    fn deliver(&mut self) {
        let at = self.dice.roll(self.frames.len());
        let chance = self.dice.roll(100);
        let (transfer, to, (frame, bytes)) = self.frames.swap_remove(at);
        if chance < self.faults.lost {
            return;
        }
        if chance < self.faults.lost + self.faults.repeated {
            self.frames.push((transfer, to, (frame, bytes.clone())));
        }
        let spoil = self.dice.roll(100) < self.faults.spoiled;
        let sealed = if spoil { self.spoil(frame, bytes) } else { (frame, bytes) };
        let Some(inbox) = self.decode.inboxes.get(&(transfer, to)) else { return };
        let (frame, bytes) = sealed;
        if inbox.try_send(inspect(frame, bytes.clone())).is_err() && !inbox.is_closed() {
            self.frames.push((transfer, to, (frame, bytes)));
        }
    }

    /// Bytes that a network or a driver changed, a header that belongs elsewhere, and frames whose
    /// sender has another idea of the world and seals that.
    fn spoil(
        &mut self,
        mut frame: troupe_runtime::wire::transfer::KvFrame,
        bytes: Bytes,
    ) -> Sealed {
        match self.dice.roll(6) {
            0 => {
                let mut changed = bytes.to_vec();
                let at = self.dice.roll(changed.len());
                changed[at] ^= 1 << self.dice.roll(8);
                return (frame, changed.into());
            }
            1 => frame.layer ^= 1,
            2 => {
                frame.epoch.number += 1;
                frame = frame.seal(&bytes);
            }
            3 => {
                frame.transfer.0 ^= 1;
                frame = frame.seal(&bytes);
            }
            4 => {
                frame.blocks.first += 40;
                frame.blocks.end += 40;
                frame = frame.seal(&bytes);
            }
            _ => {
                let short = bytes.slice(..bytes.len() - 8);
                return (frame.seal(&short), short);
            }
        }
        (frame, bytes)
    }

    /// Lets things happen in a random order until nothing is left to happen.
    fn run(&mut self, requests: u64) {
        let rarely = 1 + self.dice.roll(30);
        let dies_at = self.faults.dies.then(|| self.dice.roll(600));
        for event in 0..MOST_EVENTS {
            self.carry();
            if dies_at == Some(event) {
                self.die();
            }
            if self.dice.roll(100) < self.faults.canceled && self.dice.roll(20) == 0 {
                self.cancel();
            }
            if self.asked < requests && self.dice.roll(rarely) == 0 {
                if self.dice.roll(4) == 0 {
                    self.arrive_there()
                } else {
                    self.arrive()
                }
                continue;
            }
            if !self.happens() {
                if self.asked < requests {
                    self.arrive();
                    continue;
                }
                if self.is_over() {
                    let now = self.now;
                    self.decode.check_the_end(now);
                    self.prefill.check_the_end(now);
                    return;
                }
                // Only time is left to pass.
                self.now += Duration::from_millis(500);
                let now = self.now;
                self.decode.event(now, EngineEvent::Tick);
                self.prefill.event(now, EngineEvent::Tick);
            }
        }
        panic!(
            "no end after {MOST_EVENTS} events: {:?} {:?}",
            self.decode.engine.load(),
            self.prefill.engine.load()
        );
    }

    fn is_over(&self) -> bool {
        self.words.iter().all(VecDeque::is_empty)
            && self.decode.engine.open_requests() == 0
            && self.prefill.engine.open_requests() == 0
    }

    /// One of the things that can happen next; false if there is none that changes anything.
    fn happens(&mut self) -> bool {
        let (here, there) = (self.decode.turns(), self.prefill.turns());
        // Looking at lines changes nothing mostly: not a reason to go on.
        let moves = |turns: &[Turn]| turns.iter().any(|turn| !matches!(turn, Turn::Poll(_)));
        let words: Vec<_> = (0..2).filter(|side| !self.words[*side].is_empty()).collect();
        let frames = !self.frames.is_empty();
        let polls = here.len() + there.len() > 0;
        if !moves(&here) && !moves(&there) && words.is_empty() && !frames {
            // Everything that waits in a line is taken before time passes.
            for turn in here {
                self.decode.take(self.now, turn);
            }
            for turn in there {
                self.prefill.take(self.now, turn);
            }
            self.carry();
            let came = !self.frames.is_empty()
                || moves(&self.decode.turns())
                || moves(&self.prefill.turns());
            return polls && came;
        }
        let at = self.dice.roll(here.len() + there.len() + words.len() + 2 * usize::from(frames));
        let now = self.now;
        if let Some(turn) = here.get(at) {
            self.decode.take(now, *turn);
        } else if let Some(turn) = there.get(at - here.len()) {
            self.prefill.take(now, *turn);
        } else if let Some(side) = words.get(at - here.len() - there.len()) {
            self.hear(*side);
        } else {
            self.deliver();
        }
        true
    }
}

/// Runs many seeds over all pairs and returns what was fetched of what was asked for.
fn seeds(first: u64, count: u64, faults: Faults, change: impl Fn(&mut Shape) + Copy) -> (u64, u64) {
    let mut sum = (0, 0);
    for seed in first..first + count {
        let pair = PAIRS[seed as usize % PAIRS.len()];
        let mut world = World::new(seed, pair, faults, change);
        world.run(14);
        sum.0 += world.decode.fetched.0;
        sum.1 += world.decode.fetched.1;
    }
    sum
}

#[test]
fn whatever_the_divisions_blocks_arrive_and_the_tokens_are_right() {
    let (came, wanted) = seeds(0, 160, Faults::default(), |_| {});
    assert!(wanted > 10_000, "{wanted} tokens were asked for");
    assert!(came * 10 > wanted * 9, "{came} of {wanted} tokens came");
}

#[test]
fn what_is_cached_there_comes_and_what_is_not_is_computed_here() {
    let faults = Faults { cached: true, ..Faults::default() };
    let (came, wanted) = seeds(6000, 200, faults, |_| {});
    assert!(came > wanted / 50 && came < wanted, "{came} of {wanted} tokens came");
    let (came, _) = seeds(6200, 100, faults, |shape| (shape.blocks, shape.window) = (20, Some(9)));
    assert!(came > 0);
}

#[test]
fn a_bad_network_costs_time_and_no_token() {
    let faults = Faults { lost: 2, repeated: 5, spoiled: 2, ..Faults::default() };
    let (came, wanted) = seeds(1000, 600, faults, |_| {});
    assert!(came > wanted / 10 && came < wanted, "{came} of {wanted} tokens came");
}

#[test]
fn cancellations_and_deaths_leave_nothing_behind() {
    let faults =
        Faults { lost: 1, repeated: 2, spoiled: 1, canceled: 60, dies: true, cached: false };
    seeds(2000, 600, faults, |_| {});
    seeds(5000, 200, Faults { cached: true, ..faults }, |_| {});
}

#[test]
fn blocks_that_run_out_on_either_side_are_used_again_without_harm() {
    let faults = Faults { canceled: 30, ..Faults::default() };
    let (came, _) = seeds(3000, 200, faults, |shape| shape.blocks = 20);
    assert!(came > 0);
    seeds(3200, 100, faults, |shape| (shape.blocks, shape.prefix_caching) = (24, false));
}

#[test]
fn windows_of_layers_need_not_travel_whole() {
    let faults = Faults { lost: 1, repeated: 2, spoiled: 1, canceled: 10, ..Faults::default() };
    let (came, wanted) = seeds(4000, 200, faults, |shape| shape.window = Some(9));
    assert!(came > wanted / 10, "{came} of {wanted} tokens came");
}

#[test]
fn tiers_on_both_sides_change_no_token() {
    let faults = Faults { lost: 1, repeated: 2, spoiled: 1, canceled: 20, ..Faults::default() };
    let tiers = |shape: &mut Shape| (shape.blocks, shape.kept) = (24, (20, 8));
    let (came, _) = seeds(7000, 200, faults, tiers);
    assert!(came > 0);
    seeds(7200, 100, Faults { cached: true, dies: true, ..faults }, tiers);
}

/// Some requests of some hundred events each end long before.
const MOST_EVENTS: usize = 60_000;
