//! A prompt that is computed for another group: the side that has the blocks.
//!
//! It is a sequence like others, with the prefix cache and the queue of this engine, of which
//! nothing is sampled. Its ranks send blocks as they are computed. It keeps its blocks until all
//! have left; then only the conversation is left of it, which the other side ends. What is wanted
//! only if it is cached is in no queue and no step: its blocks are held and leave at once.

use std::{collections::BTreeSet, time::Duration};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::{AdapterId, Coordinate, SequenceId, TransferId},
    wire::{
        generate::SamplingOptions,
        transfer::{
            ExportOrder, KvRoute, Prefill, PrefillDown, TransferOrder, TransferReport,
            TransferState,
        },
    },
};

use super::{
    engine::{Engine, EngineEffect},
    transfers::TransferEffect,
};
use crate::{
    kv::transfer::routes,
    scheduler::{Owner, SequenceSpec},
};

/// A transfer that sends blocks from here.
#[derive(Clone, Debug)]
pub(super) struct Prefilling {
    /// Until all of its blocks have left.
    pub(super) sequence: Option<SequenceId>,
    deadline: Duration,
    /// Ranks that have something left to send.
    left: BTreeSet<Coordinate>,
}

/// The routes of a transfer, and its adapter.
type Accepted = (Vec<KvRoute>, Option<AdapterId>);

impl Engine {
    /// Another group's leader asks.
    pub(super) fn asked(
        &mut self,
        now: Duration,
        prefill: Prefill,
        effects: &mut Vec<EngineEffect>,
    ) {
        let transfer = prefill.transfer;
        let (routes, adapter) = match self.accept(&prefill) {
            Ok(accepted) => accepted,
            Err(why) => return self.refuse_transfer(transfer, why, effects),
        };
        let deadline = now.saturating_add(Duration::from_millis(prefill.time_left_ms));
        let left = routes.iter().map(|route| route.from).collect();
        let own = || format!("{transfer}");
        let digest = prefill.adapter.as_ref().map(|adapter| adapter.digest);
        let chain = self.chain(own, digest, prefill.cache_salt.as_deref());
        let length = prefill.tokens.len() as u32;
        let sequence = self.scheduler.add(SequenceSpec {
            owner: Owner::NOBODY,
            request: prefill.request,
            prompt_len: length,
            tokens: prefill.tokens,
            choice: 0,
            seed: 0,
            options: SamplingOptions { max_tokens: 0, ..SamplingOptions::default() },
            adapter,
            traceparent: prefill.traceparent,
            priority: prefill.priority,
            chain,
            hashes: Vec::new(),
            keeps_blocks: true,
            first_choice: None,
        });
        let complete = if prefill.cached_only { self.scheduler.pin(sequence) } else { None };
        if prefill.cached_only && complete.is_none() {
            self.scheduler.release(sequence);
            let why = "not all of it is cached any more".into();
            return self.refuse_transfer(transfer, (ErrorKind::Unavailable, why), effects);
        }
        let prefilling = Prefilling { sequence: Some(sequence), deadline, left };
        self.transfers.prefills.insert(transfer, prefilling);
        let order = ExportOrder {
            transfer,
            request: prefill.request,
            epoch: prefill.epoch,
            sequence,
            wants: prefill.wants,
            routes,
            complete,
        };
        effects.push(TransferEffect::Order(TransferOrder::Export(Box::new(order))).into());
        if !prefill.cached_only {
            self.bring_back(now, sequence, effects);
        }
    }

    fn refuse_transfer(
        &self,
        transfer: TransferId,
        (kind, why): (ErrorKind, String),
        effects: &mut Vec<EngineEffect>,
    ) {
        let refused = PrefillDown::Refused(PublicError::new(kind, why));
        effects.push(TransferEffect::Answer(transfer, refused).into());
        effects.push(TransferEffect::Hang(transfer).into());
    }

    /// The routes of a transfer that can be had here, and the adapter that it is for.
    fn accept(&self, prefill: &Prefill) -> Result<Accepted, (ErrorKind, String)> {
        let settings = &self.settings;
        let elsewhere = |why: String| Err((ErrorKind::Unavailable, why));
        let wrong = |why: String| Err((ErrorKind::BadRequest, why));
        let Some(setup) = &self.transfers.setup else {
            return elsewhere("this group sends no KV".into());
        };
        if prefill.endpoint != settings.endpoint {
            return elsewhere(format!("{} is no longer here", prefill.endpoint));
        }
        // What is cached costs little to send, and is soon gone.
        if (self.draining || self.is_taken()) && !prefill.cached_only {
            return elsewhere(format!("{} takes no new requests", settings.endpoint));
        }
        if prefill.model != settings.model {
            return elsewhere("this endpoint serves another version of the model".into());
        }
        let adapter = prefill.adapter.as_ref().map(|adapter| self.adapters.find(adapter));
        let adapter = adapter.transpose().map_err(|error| (error.kind, error.message))?;
        if self.transfers.prefills.contains_key(&prefill.transfer) {
            return wrong("this transfer is under way already".into());
        }
        let waiting = self.scheduler.counts().1;
        if waiting >= settings.limits.max_num_queued || !self.transfers.may_prefill() {
            return Err((ErrorKind::Overloaded, "this endpoint is busy".into()));
        }
        let (length, size) = (prefill.tokens.len(), settings.limits.block_size as usize);
        if length > self.longest() as usize || !length.is_multiple_of(size) {
            let most = self.longest();
            return wrong(format!("{length} tokens, whole blocks of {size} up to {most} can be"));
        }
        if let Some(token) = prefill.tokens.iter().find(|token| **token >= settings.vocab_size) {
            return wrong(format!("token {token} is out of vocabulary"));
        }
        let blocks = (length / size) as u32;
        let groups = settings.windows.len();
        let fit = prefill.wants.iter().all(|run| run.first <= run.end && run.end == blocks);
        if prefill.wants.len() != groups || !fit {
            let wants = &prefill.wants;
            return wrong(format!("{wants:?} are wanted of {groups} groups of {blocks} blocks"));
        }
        let routes = routes(&setup.shares(), &prefill.ranks);
        Ok((routes.map_err(|why| (ErrorKind::BadRequest, why))?, adapter))
    }

    /// One of the engine's ranks that sends blocks says how it stands.
    pub(super) fn exported(&mut self, report: &TransferReport, effects: &mut Vec<EngineEffect>) {
        let transfer = report.transfer;
        let Some(prefill) = self.transfers.prefills.get_mut(&transfer) else { return };
        match &report.state {
            TransferState::Exported => {
                prefill.left.remove(&report.rank);
                if prefill.left.is_empty()
                    && let Some(sequence) = prefill.sequence.take()
                {
                    self.scheduler.release(sequence);
                    effects.push(TransferEffect::Answer(transfer, PrefillDown::Sent).into());
                }
            }
            TransferState::Broken(why) => {
                let failed = PrefillDown::Failed(why.clone());
                effects.push(TransferEffect::Answer(transfer, failed).into());
                self.end_prefill(transfer, effects);
            }
            TransferState::Imported(_) | TransferState::Closed(_) => {}
        }
    }

    /// Nobody would use what comes later.
    pub(super) fn expire_prefills(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let prefills = self.transfers.prefills.iter();
        let late = prefills.filter(|(_, prefill)| prefill.deadline <= now);
        let late: Vec<_> = late.map(|(transfer, _)| *transfer).collect();
        for transfer in late {
            let failed = PrefillDown::Failed("its time is over".into());
            effects.push(TransferEffect::Answer(transfer, failed).into());
            self.end_prefill(transfer, effects);
        }
    }

    /// Nothing more is computed or sent for it.
    pub(super) fn end_prefill(&mut self, transfer: TransferId, effects: &mut Vec<EngineEffect>) {
        let Some(prefill) = self.transfers.prefills.remove(&transfer) else { return };
        self.transfers.close(transfer, effects);
        if let Some(sequence) = prefill.sequence {
            self.drop_fetch(sequence, effects);
            self.scheduler.release(sequence);
        }
        effects.push(TransferEffect::Hang(transfer).into());
    }

    /// The group is over.
    pub(super) fn fail_prefills(&mut self, why: &str, effects: &mut Vec<EngineEffect>) {
        let all: Vec<_> = self.transfers.prefills.keys().copied().collect();
        for transfer in all {
            let failed = PrefillDown::Failed(why.to_owned());
            effects.push(TransferEffect::Answer(transfer, failed).into());
            self.end_prefill(transfer, effects);
        }
    }
}
