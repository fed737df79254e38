//! Follows one leader's word on its cache: what of it is believed, and what is asked for again.
//!
//! Batches are taken in their order and no others: a number that was seen is a repetition, one that
//! is too high means that something was missed, which is asked for. What a leader may tell is
//! bounded by what it can hold, and how fast by a rate: a flood makes this follower slow, which
//! makes the leader's ledger skip what it would have told.

use std::time::Duration;

use troupe_runtime::{
    id::{Digest, EndpointId, Epoch},
    wire::cache::{CacheBatch, CacheDown, CacheParams, CacheSnapshot, CacheStill},
};

/// What is followed, and how far.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    endpoint: EndpointId,
    block_size: u32,
    hashing: Digest,
    /// Most blocks that it can hold, once it has said so.
    most: Option<usize>,
    /// The last batch that was taken.
    since: Option<u64>,
    /// A snapshot of which parts are there.
    filling: Option<Filling>,
    /// When something was asked for that has not come.
    asked: Option<Duration>,
    /// Hashes that may be taken before it is too fast, counted down from `budgeted` on.
    budget: u64,
    budgeted: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Filling {
    seq: u64,
    next: u32,
    held: usize,
}

/// What can happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A conversation begins.
    Begun,
    /// The leader speaks.
    Down(CacheDown),
    /// So many blocks are known of it, after what it said was taken.
    Holds(usize),
    /// Time has passed.
    Tick,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask for everything after this batch, or for all.
    Ask(Option<u64>),
    /// It is what it should be: what it tells counts.
    Believe,
    /// Take a batch.
    Apply(CacheBatch),
    /// All that it holds will be told anew: begin a set that does not count yet.
    Begin,
    /// Add to that set.
    Fill(Vec<u128>),
    /// That set is what it holds.
    Finish,
    /// Read nothing for so long.
    Pause(Duration),
    /// End the conversation, and believe nothing of what it told.
    Refuse(Refusal),
}

/// Why a leader is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is somebody else, or another incarnation.
    #[error("it tells of the cache of {0}")]
    Another(EndpointId),
    /// Another epoch's batch.
    #[error("it tells of epoch {0}, which is not its own")]
    Epoch(Epoch),
    /// Its hashes are not ours.
    #[error(
        "it hashes blocks of {0} tokens with other parameters than its registered block size, \
         model and KV type give"
    )]
    Hashing(u32),
    /// It told of blocks before it said how it names them.
    #[error("it did not say first how it names blocks")]
    Unnamed,
    /// More than it can have.
    #[error("it claims to hold {held} blocks and has room for {room}")]
    TooMany {
        /// What it claims.
        held: usize,
        /// What is possible.
        room: usize,
    },
}

impl Follow {
    /// For an endpoint that names its blocks so.
    pub(crate) fn new(endpoint: EndpointId, block_size: u32, hashing: Digest) -> Self {
        Self {
            endpoint,
            block_size,
            hashing,
            most: None,
            since: None,
            filling: None,
            asked: None,
            budget: RATE,
            budgeted: Duration::ZERO,
        }
    }

    /// Takes one event and says what to do about it.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let done = match event {
            Event::Begun => {
                (self.most, self.filling) = (None, None);
                self.ask(now, &mut effects);
                Ok(())
            }
            Event::Down(CacheDown::Params(params)) => self.params(&params, &mut effects),
            Event::Down(CacheDown::Batch(batch)) => self.batch(now, batch, &mut effects),
            Event::Down(CacheDown::Snapshot(part)) => self.snapshot(now, part, &mut effects),
            Event::Down(CacheDown::Still(still)) => self.still(now, still, &mut effects),
            Event::Holds(held) => self.bounded(held),
            Event::Tick => {
                if self.asked.is_some_and(|asked| asked + PATIENCE <= now) {
                    self.ask(now, &mut effects);
                }
                Ok(())
            }
        };
        if let Err(refusal) = done {
            // Whatever it says next is taken from its beginning.
            (self.since, self.filling) = (None, None);
            effects.push(Effect::Refuse(refusal));
        }
        effects
    }

    fn params(&mut self, params: &CacheParams, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        if params.endpoint != self.endpoint {
            return Err(Refusal::Another(params.endpoint.clone()));
        }
        if (params.block_size, params.hashing) != (self.block_size, self.hashing) {
            return Err(Refusal::Hashing(params.block_size));
        }
        if self.most.replace(params.blocks as usize).is_none() {
            effects.push(Effect::Believe);
        }
        Ok(())
    }

    fn batch(
        &mut self,
        now: Duration,
        batch: CacheBatch,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.named(batch.epoch)?;
        let hashes = batch.removed.len() + batch.stored.len();
        self.pay(now, hashes, effects);
        match self.since {
            // A repetition.
            Some(since) if batch.seq <= since => {}
            Some(since) if batch.seq == since + 1 => {
                (self.since, self.asked) = (Some(batch.seq), None);
                effects.push(Effect::Apply(batch));
            }
            _ => self.missed(now, effects),
        }
        Ok(())
    }

    fn snapshot(
        &mut self,
        now: Duration,
        part: CacheSnapshot,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.named(part.epoch)?;
        self.pay(now, part.held.len(), effects);
        // One that was overtaken by batches says nothing new.
        if self.since.is_some_and(|since| part.seq < since) {
            return Ok(());
        }
        if part.part == 0 {
            self.filling = Some(Filling { seq: part.seq, next: 0, held: 0 });
            effects.push(Effect::Begin);
        }
        let Some(filling) = &mut self.filling else {
            self.missed(now, effects);
            return Ok(());
        };
        if (filling.seq, filling.next) != (part.seq, part.part) {
            self.filling = None;
            self.missed(now, effects);
            return Ok(());
        }
        filling.next += 1;
        filling.held += part.held.len();
        let held = filling.held;
        self.bounded(held)?;
        // It is coming: no reason to ask again.
        self.asked = self.asked.map(|_| now);
        effects.push(Effect::Fill(part.held));
        if part.last {
            (self.since, self.filling, self.asked) = (Some(part.seq), None, None);
            effects.push(Effect::Finish);
        }
        Ok(())
    }

    fn still(
        &mut self,
        now: Duration,
        still: CacheStill,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.named(still.epoch)?;
        if self.since.is_none_or(|since| since < still.seq) {
            self.missed(now, effects);
        }
        Ok(())
    }

    /// Refuses what is told of another incarnation, or before it was said what its names mean.
    fn named(&self, epoch: Epoch) -> Result<(), Refusal> {
        if epoch != self.endpoint.epoch {
            return Err(Refusal::Epoch(epoch));
        }
        self.most.map(drop).ok_or(Refusal::Unnamed)
    }

    fn bounded(&self, held: usize) -> Result<(), Refusal> {
        let room = self.most.unwrap_or(0);
        if held > room { Err(Refusal::TooMany { held, room }) } else { Ok(()) }
    }

    /// Something did not come. It is asked for once, and again if that does not come either.
    fn missed(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.asked.is_none() {
            self.ask(now, effects);
        }
    }

    fn ask(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.asked = Some(now);
        effects.push(Effect::Ask(self.since));
    }

    /// Everything that is read has its price, also what says nothing.
    fn pay(&mut self, now: Duration, hashes: usize, effects: &mut Vec<Effect>) {
        let time = now.saturating_sub(self.budgeted);
        let more = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let most = RATE + 2 * self.most.unwrap_or(0) as u64;
        self.budget = self.budget.saturating_add(more.saturating_mul(RATE) / 1_000_000).min(most);
        self.budgeted = self.budgeted.max(now);
        let price = hashes as u64 + PER_MESSAGE;
        if price > self.budget {
            let lacks = price - self.budget;
            // What is lacking is earned in the pause, and not once more after it.
            self.budgeted += Duration::from_micros(lacks * 1_000_000 / RATE);
            effects.push(Effect::Pause(self.budgeted.saturating_sub(now)));
        }
        self.budget = self.budget.saturating_sub(price);
    }
}

/// Hashes in a second that a leader may go on with, and above that twice what it can hold at once:
/// more than ten times what an engine computes, and a twentieth of what a core takes.
const RATE: u64 = 250_000;
/// What a message costs however little it says, in hashes.
const PER_MESSAGE: u64 = 16;
/// After so long what was asked for is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
