//! A request whose prompt another group computes, or the tiers beside the device have: the side
//! that wants the blocks.
//!
//! The engine reserves all blocks, has its ranks take what comes, and asks the other group's leader
//! for what it lacks itself. Ranks say how far the blocks are complete without a gap. When all is
//! there, or nothing more can be hoped for (the other side refuses, fails, is gone, or is too
//! late), the sequence begins with what there is: a transfer costs time when it goes wrong, and
//! never an answer.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    id::{Coordinate, SequenceId, TransferId},
    wire::{
        generate::{Generate, KvSource},
        tier::TierPlace,
        transfer::{
            ImportOrder, Imported, Prefill, PrefillDown, RankPlace, TransferOrder, TransferReport,
            TransferState,
        },
    },
};

use super::{
    engine::{Engine, EngineEffect, Observation},
    transfers::TransferEffect,
};

/// A transfer that fills blocks here.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) sequence: SequenceId,
    began: Duration,
    deadline: Duration,
    /// Blocks that were here already, and how many there are to be.
    first: u32,
    end: u32,
    /// How far each rank is, and the bytes that it took.
    ranks: BTreeMap<Coordinate, (u32, u64)>,
    source: Source,
}

/// Where the blocks of a transfer come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Another group.
    Group,
    /// Every rank's own tiers, where these places are pinned, per KV group.
    Tiers(Vec<Vec<TierPlace>>),
}

impl Fetch {
    /// A transfer of the blocks from `first` to before `end` of a sequence, to all of `ranks`.
    pub(super) fn new(
        sequence: SequenceId,
        (began, time): (Duration, Duration),
        (first, end): (u32, u32),
        ranks: &[RankPlace],
        source: Source,
    ) -> Self {
        let ranks = ranks.iter().map(|place| (place.rank, (first, 0))).collect();
        Self { sequence, began, deadline: began + time, first, end, ranks, source }
    }

    /// Blocks that every rank has.
    fn ready(&self) -> u32 {
        self.ranks.values().map(|(ready, _)| *ready).min().unwrap_or(self.first)
    }
}

impl Engine {
    /// Asks another group for the KV of a sequence that has just begun to wait, if that is possible
    /// and brings anything.
    pub(super) fn fetch(
        &mut self,
        now: Duration,
        id: SequenceId,
        (generate, source): (&Generate, &KvSource),
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(setup) = self.transfers.setup.clone() else { return };
        if !self.transfers.may_fetch() || source.endpoint == self.settings.endpoint {
            return;
        }
        let until = source.cached.unwrap_or(u32::MAX);
        let Some(reserved) = self.scheduler.reserve(id, 1, until) else { return };
        let size = self.settings.limits.block_size;
        let first = reserved.cached / size;
        let end = reserved.wants.iter().map(|run| run.end).max().unwrap_or(first);
        let transfer = self.transfers.mint(&setup);
        let time = self.patience(end - first);
        let time = time.min(Duration::from_millis(generate.time_left_ms));
        let tokens = self.scheduler.sequence(id).map_or(&[][..], |own| own.tokens());
        let prefill = Prefill {
            transfer,
            request: generate.request,
            endpoint: source.endpoint.clone(),
            epoch: self.settings.endpoint.epoch,
            // What takes longer than a year is as good as never.
            time_left_ms: time.as_millis() as u64,
            priority: generate.priority,
            cached_only: source.cached.is_some(),
            tokens: tokens.get(..(end * size) as usize).unwrap_or(tokens).to_vec(),
            model: self.settings.model,
            adapter: generate.adapter.clone(),
            cache_salt: generate.cache_salt.clone(),
            traceparent: generate.traceparent.clone(),
            wants: reserved.wants.clone(),
            ranks: setup.ranks.clone(),
        };
        let fetch = Fetch::new(id, (now, time), (first, end), &setup.ranks, Source::Group);
        self.transfers.fetches.insert(transfer, fetch);
        // The ranks know of it before anybody can send, and have kept what these blocks had.
        self.keep_moved(effects);
        let order = ImportOrder {
            transfer,
            request: generate.request,
            first,
            wants: reserved.wants,
            blocks: reserved.blocks,
        };
        effects.push(TransferEffect::Order(TransferOrder::Import(Box::new(order))).into());
        let ask = TransferEffect::Ask(source.address.clone(), Box::new(prefill));
        effects.push(ask.into());
    }

    /// One of the engine's ranks that takes blocks says how it stands.
    pub(super) fn imported(
        &mut self,
        now: Duration,
        report: &TransferReport,
        effects: &mut Vec<EngineEffect>,
    ) {
        let transfer = report.transfer;
        let Some(fetch) = self.transfers.fetches.get_mut(&transfer) else { return };
        let over = match &report.state {
            TransferState::Imported(Imported { ready, bytes }) => {
                if let Some(rank) = fetch.ranks.get_mut(&report.rank) {
                    *rank = ((*ready).min(fetch.end), *bytes);
                }
                (fetch.ready() == fetch.end).then_some("")
            }
            TransferState::Broken(why) => {
                // Nobody else is sent there in vain.
                if let Source::Tiers(places) = &fetch.source {
                    let ready = fetch.ready();
                    let lost = places.iter().map(|places| {
                        let left = (fetch.end - ready).min(places.len() as u32) as usize;
                        places[places.len() - left..].to_vec()
                    });
                    self.scheduler.forget_kept(&lost.collect::<Vec<_>>());
                }
                Some(&**why)
            }
            TransferState::Exported | TransferState::Closed(_) => None,
        };
        if let Some(why) = over {
            self.end_fetch(now, transfer, why, effects);
        }
    }

    /// The other group's leader answers.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        transfer: TransferId,
        down: &PrefillDown,
        effects: &mut Vec<EngineEffect>,
    ) {
        match (down, self.transfers.fetches.get_mut(&transfer)) {
            (_, None) => {}
            (PrefillDown::Sent, Some(fetch)) => {
                fetch.deadline = fetch.deadline.min(now + TIME_TO_ARRIVE);
            }
            (PrefillDown::Refused(error), Some(_)) => {
                self.end_fetch(now, transfer, &error.to_string(), effects);
            }
            (PrefillDown::Failed(why), Some(_)) => self.end_fetch(now, transfer, why, effects),
        }
    }

    /// What is too late is not waited for any longer.
    pub(super) fn expire_fetches(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let fetches = self.transfers.fetches.iter();
        let late: Vec<_> =
            fetches.filter(|(_, fetch)| fetch.deadline <= now).map(|(id, _)| *id).collect();
        for transfer in late {
            self.end_fetch(now, transfer, "it took longer than it is waited for", effects);
        }
    }

    /// Nothing more is taken: the sequence begins with what there is, and why that is not all is
    /// told.
    pub(super) fn end_fetch(
        &mut self,
        now: Duration,
        transfer: TransferId,
        why: &str,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(fetch) = self.transfers.fetches.remove(&transfer) else { return };
        let ready = fetch.ready();
        self.stop_fetch(transfer, &fetch.source, effects);
        let size = self.settings.limits.block_size;
        let tokens = (ready - fetch.first) * size;
        let time = now.saturating_sub(fetch.began);
        match &fetch.source {
            Source::Group => {
                self.scheduler.fetched(fetch.sequence, ready);
                if tokens > 0 {
                    self.fetch_rate = faster(self.fetch_rate, tokens, time);
                }
            }
            Source::Tiers(_) => self.scheduler.loaded(fetch.sequence, ready),
        }
        effects.push(EngineEffect::Observe(Observation::Fetched {
            from_tiers: matches!(fetch.source, Source::Tiers(_)),
            tokens,
            of: (fetch.end - fetch.first) * size,
            bytes: fetch.ranks.values().map(|(_, bytes)| bytes).sum(),
            time,
            missing: (ready < fetch.end).then(|| why.to_owned()),
        }));
    }

    /// For how long so many blocks are waited for.
    pub(super) fn patience(&self, blocks: u32) -> Duration {
        let limits = &self.settings.limits;
        limits.kv_transfer_timeout + TIME_PER_TOKEN * (blocks * limits.block_size)
    }

    /// The sequence ends, or its group does: its blocks are wanted no more.
    pub(super) fn drop_fetch(&mut self, id: SequenceId, effects: &mut Vec<EngineEffect>) {
        if let Some(transfer) = self.transfers.of(id)
            && let Some(fetch) = self.transfers.fetches.remove(&transfer)
        {
            self.stop_fetch(transfer, &fetch.source, effects);
        }
        self.transfers.wanting.remove(&id);
    }

    fn stop_fetch(
        &mut self,
        transfer: TransferId,
        source: &Source,
        effects: &mut Vec<EngineEffect>,
    ) {
        self.transfers.close(transfer, effects);
        match source {
            Source::Group => effects.push(TransferEffect::Leave(transfer).into()),
            // What is moved into these slots from now on is moved when all ranks have stopped.
            Source::Tiers(places) => self.scheduler.unpin(places),
        }
    }
}

/// The rate of the fastest transfer of late: slower ones waited for something else than the
/// network, and what they say counts the less.
fn faster(rate: u32, tokens: u32, time: Duration) -> u32 {
    let measured = f64::from(tokens) / time.as_secs_f64().max(1e-6);
    let rate = f64::from(rate);
    // Casts of floats to integers stay within the integers' bounds.
    (if measured >= rate { measured } else { rate + (measured - rate) / SLOWER }) as u32
}

/// One slow transfer in so many is believed.
const SLOWER: f64 = 16.0;
/// Time that each token is given: a prefill of 500 tokens per second is the slowest that is waited
/// for.
const TIME_PER_TOKEN: Duration = Duration::from_millis(2);
/// Once everything has been sent it is here soon, or something was lost on the way.
const TIME_TO_ARRIVE: Duration = Duration::from_secs(5);
