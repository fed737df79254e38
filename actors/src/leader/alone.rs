//! Requests that run alone.
//!
//! Two processes have died of a step that held such a request, and one of those that were in both
//! steps is why. Alone it harms nobody else, and if a third process dies it was this one. So the
//! group gives up everything else first: what is under way goes on elsewhere, with its KV, and what
//! comes is sent elsewhere too. Who comes back because there is nobody else waits until it is over.
//! Several of them run one after the other.

use std::{collections::VecDeque, time::Duration};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    wire::generate::{Generate, GenerateDown},
};

use super::{
    engine::{Engine, EngineEffect},
    request::RequestKey,
};

/// Those of one engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Alone {
    /// Each with when it came.
    waiting: VecDeque<(Duration, Generate)>,
    running: Option<RequestKey>,
    /// What is not to run alone and has nowhere else to go, each with when it came.
    others: VecDeque<(Duration, Generate)>,
}

impl Alone {
    /// Requests that wait for a turn here.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.others.len()
    }

    /// It waits until nobody is to run alone any more.
    pub(super) fn keep(&mut self, now: Duration, generate: Generate) {
        self.others.push_back((now, generate));
    }
}

impl Engine {
    /// Whether nothing else is taken.
    pub(super) fn is_taken(&self) -> bool {
        self.alone.running.is_some() || !self.alone.waiting.is_empty()
    }

    /// A gateway asks for a request to run alone.
    pub(super) fn submit_alone(
        &mut self,
        now: Duration,
        generate: Generate,
        effects: &mut Vec<EngineEffect>,
    ) {
        let key = key_of(&generate);
        let full = self.alone.waiting.len() >= MOST_WAITING;
        let error = PublicError::new(ErrorKind::Unavailable, "others are to run alone here");
        let refused = self.admit(key, &generate).and(if full { Err(error) } else { Ok(()) });
        if let Err(error) = refused {
            return self.refuse(key, error, effects);
        }
        self.alone.waiting.push_back((now, generate));
        if self.alone.running.is_none() {
            self.move_others(effects);
        }
    }

    /// Begins the next one once nothing else is under way. Looked at after every event.
    pub(super) fn begin_alone(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let running = self.alone.running.filter(|key| self.by_key.contains_key(key));
        self.alone.running = running;
        let busy = self.open_requests() > 0 || self.steps_in_flight() > 0;
        if running.is_some() || busy {
            return;
        }
        if let Some(kept) = self.alone.waiting.pop_front() {
            self.alone.running = Some(key_of(&kept.1));
            return self.submit(now, shortened(now, kept), effects);
        }
        for kept in std::mem::take(&mut self.alone.others) {
            self.submit(now, shortened(now, kept), effects);
        }
    }

    /// Ends the wait of those that `of` says yes to, with what they are told.
    pub(super) fn leave_alone(
        &mut self,
        of: impl Fn(&RequestKey) -> bool,
        told: Option<&GenerateDown>,
        effects: &mut Vec<EngineEffect>,
    ) {
        let mut stays = |(_, generate): &(Duration, Generate)| {
            let key = key_of(generate);
            let leaves = of(&key);
            if leaves {
                let told = told.map(|told| EngineEffect::Send(key, told.clone()));
                effects.extend(told);
                effects.push(EngineEffect::Close(key));
            }
            !leaves
        };
        self.alone.waiting.retain(&mut stays);
        self.alone.others.retain(&mut stays);
    }
}

/// With the time that is left of it.
fn shortened(now: Duration, (came, mut generate): (Duration, Generate)) -> Generate {
    let waited = now.saturating_sub(came).as_millis();
    let waited = u64::try_from(waited).unwrap_or(u64::MAX);
    generate.time_left_ms = generate.time_left_ms.saturating_sub(waited);
    generate
}

fn key_of(generate: &Generate) -> RequestKey {
    RequestKey { request: generate.request, attempt: generate.attempt }
}

/// More of them are not kept waiting: each may take as long as a request may.
const MOST_WAITING: usize = 8;
