//! How requests end in the engine: by their last token, by word of their gateway, because their
//! time is over, because one of their sequences cannot go on, or because all go elsewhere.
//!
//! However it ends, each choice gives its blocks back, leaves whatever transfer it waited for, and
//! is counted once.

use std::time::Duration;

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::SequenceId,
    wire::generate::{Finish, FinishReason, GenerateDown, Usage},
};

use super::{
    engine::{Engine, EngineEffect, Observation},
    request::{Ended, RequestKey},
};
use crate::scheduler::{Owner, Sequence};

impl Engine {
    /// A request with `max_tokens` 0 ends when its prompt is computed.
    pub(super) fn end_if_prompt_only(
        &mut self,
        now: Duration,
        id: SequenceId,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(sequence) = self.scheduler.sequence(id).filter(|s| s.is_caught_up()) else {
            return;
        };
        let owner = sequence.owner();
        let request = self.requests.get_mut(owner).filter(|request| request.is_prompt_only());
        let Some(request) = request else { return };
        let Some(advance) = request.finish_without_token(id, now) else { return };
        effects.push(EngineEffect::Send(request.key, GenerateDown::Chunk(advance.chunk)));
        if let Some(end) = advance.ended {
            self.end_choice(owner, id, end, effects);
        }
    }

    pub(super) fn end_choice(
        &mut self,
        owner: Owner,
        id: SequenceId,
        end: Ended,
        effects: &mut Vec<EngineEffect>,
    ) {
        let preemptions = self.scheduler.sequence(id).map_or(0, Sequence::preemptions);
        self.drop_fetch(id, effects);
        self.scheduler.release(id);
        let Ended { reason, usage, times } = end;
        if let Some(times) = times {
            let more = usage.completion_tokens.saturating_sub(1);
            self.first_token.add(times.waited + times.prefill, 1);
            self.next_token.add(times.decode / more.max(1), more);
        }
        let observation = Observation::Finished { reason, usage, times, preemptions };
        effects.push(EngineEffect::Observe(observation));
        let over = self.requests.get(owner).filter(|request| request.choices.is_empty());
        if let Some(key) = over.map(|request| request.key) {
            self.requests.remove(owner);
            self.by_key.remove(&key);
            effects.push(EngineEffect::Close(key));
        }
    }

    pub(super) fn finish(
        &mut self,
        now: Duration,
        key: RequestKey,
        finish: &Finish,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(&owner) = self.by_key.get(&key) else { return };
        let Some(request) = self.requests.get_mut(owner) else { return };
        let Some((id, end)) = request.finish(finish, now) else { return };
        self.end_choice(owner, id, end, effects);
    }

    pub(super) fn abort(&mut self, key: RequestKey, effects: &mut Vec<EngineEffect>) {
        self.leave_alone(|waits| *waits == key, None, effects);
        let owner = self.by_key.remove(&key);
        let Some(request) = owner.and_then(|owner| self.requests.remove(owner)) else { return };
        for choice in request.choices {
            let preemptions =
                self.scheduler.sequence(choice.sequence).map_or(0, Sequence::preemptions);
            self.drop_fetch(choice.sequence, effects);
            self.scheduler.release(choice.sequence);
            let (reason, usage) = (FinishReason::Abort, Usage::default());
            let observation = Observation::Finished { reason, usage, times: None, preemptions };
            effects.push(EngineEffect::Observe(observation));
        }
        effects.push(EngineEffect::Close(key));
    }

    /// Ends a request of which one sequence cannot go on; its KV may be as bad as its logits.
    pub(super) fn fail_request(
        &mut self,
        owner: Owner,
        id: SequenceId,
        why: String,
        effects: &mut Vec<EngineEffect>,
    ) {
        let Some(key) = self.requests.get(owner).map(|request| request.key) else { return };
        let error = PublicError::new(ErrorKind::Internal, why);
        effects.push(EngineEffect::Send(key, GenerateDown::Failed(error)));
        self.scheduler.discard(id);
        self.abort(key, effects);
    }

    pub(super) fn expire(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let late = self.requests.iter().filter(|(_, request)| request.deadline <= now);
        let late: Vec<_> = late.map(|(_, request)| request.key).collect();
        for key in late {
            let message = "The request's deadline has passed.";
            let error = PublicError::new(ErrorKind::DeadlineExceeded, message);
            effects.push(EngineEffect::Send(key, GenerateDown::Failed(error)));
            self.abort(key, effects);
        }
    }

    /// Whatever runs or waits goes on elsewhere; what was computed stays in the cache.
    pub(super) fn move_all(&mut self, effects: &mut Vec<EngineEffect>) {
        let error = PublicError::new(ErrorKind::Unavailable, "The endpoint is going away.");
        self.leave_alone(|_| true, Some(&GenerateDown::Moved(error)), effects);
        self.move_others(effects);
    }

    /// The same, but for those that wait to run alone.
    pub(super) fn move_others(&mut self, effects: &mut Vec<EngineEffect>) {
        let error = PublicError::new(ErrorKind::Unavailable, "The endpoint is for others now.");
        let keys: Vec<_> = self.by_key.keys().copied().collect();
        for key in keys {
            effects.push(EngineEffect::Send(key, GenerateDown::Moved(error.clone())));
            self.abort(key, effects);
        }
    }

    pub(super) fn fail_all(&mut self, error: &PublicError, effects: &mut Vec<EngineEffect>) {
        self.leave_alone(|_| true, Some(&GenerateDown::Failed(error.clone())), effects);
        let keys: Vec<_> = self.by_key.keys().copied().collect();
        for key in keys {
            effects.push(EngineEffect::Send(key, GenerateDown::Failed(error.clone())));
            self.abort(key, effects);
        }
    }
}
