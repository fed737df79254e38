//! A request after every check: what is placed, executed and answered.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use troupe_runtime::{
    id::RequestId,
    wire::generate::{OutputKind, SamplingOptions},
};

use super::{context::RequestContext, hints::Hints};
use crate::{
    egress::{answer::Telling, stop::StopRules, stream::StreamOptions},
    model::{Served, ServedModel, TextOptions},
    openai::common::Sampling,
    rules::Scope,
};

/// What all prompts of a request share.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The request's id, as its client knows it.
    pub(crate) name: String,
    /// The name by which endpoints are found.
    pub(crate) served_name: String,
    /// Whose tokens the prompts are.
    pub(crate) model: Arc<ServedModel>,
    /// Choices per prompt.
    pub(crate) n: u32,
    /// How tokens become text.
    pub(crate) text: TextOptions,
    pub(crate) stop: StopRules,
    /// Higher goes first at the gateway; a leader is told the negative, as vLLM counts.
    pub(crate) priority: i32,
    /// Whose share it is counted for.
    pub(crate) tenant: Arc<str>,
    pub(crate) cache_salt: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) hints: Hints,
    /// The services that may answer it; all of them if no route says.
    pub(crate) scope: Option<Scope>,
    /// With what the next request of its session comes to the same endpoint.
    pub(crate) session_token: OnceLock<String>,
    pub(crate) deadline: Instant,
    pub(crate) telling: Telling,
}

/// One prompt.
#[derive(Clone, Debug)]
pub(crate) struct PreparedPrompt {
    /// Names its execution.
    pub(crate) request: RequestId,
    pub(crate) tokens: Arc<[u32]>,
    /// What is wanted of the model.
    pub(crate) output: OutputKind,
    pub(crate) options: SamplingOptions,
    /// Key of the random numbers.
    pub(crate) seed: u64,
    /// Only the prompt is wanted: `options.max_tokens` is 0.
    pub(crate) prompt_only: bool,
}

impl Prepared {
    /// From what is left to be said once the prompts are known; `choices` is how many per prompt,
    /// and what ends them.
    pub(crate) fn new(
        served: Served,
        asked: &Sampling,
        choices: (u32, StopRules),
        context: &RequestContext,
        prompts: &[PreparedPrompt],
    ) -> Self {
        let (n, mut stop) = choices;
        // The same for every prompt, unless one has room for less, which then refused it.
        stop.min_tokens = prompts.first().map_or(0, |prompt| prompt.options.min_tokens);
        let stream = asked.stream.unwrap_or(false);
        let usage = asked.stream_options.unwrap_or_default();
        let include_usage = usage.include_usage.unwrap_or(false);
        let continuous_usage = include_usage && usage.continuous_usage_stats.unwrap_or(false);
        let interval = u32::try_from(asked.stream_interval.unwrap_or(1)).unwrap_or(u32::MAX);
        let claimed = served.priority.or_else(|| asked_priority(asked));
        let priority = context.caller.priority(claimed);
        Self {
            // One that is too long was refused when the request was received.
            name: context.id_for(asked.request_id.as_deref()).unwrap_or(&context.id).to_owned(),
            served_name: served.name,
            hints: Hints { priority, adapter: served.adapter, ..context.hints.clone() },
            model: served.model,
            n,
            text: TextOptions { skip_special: asked.skip_special_tokens.unwrap_or(true) },
            stop,
            priority,
            tenant: Arc::clone(&context.caller.tenant),
            cache_salt: asked.cache_salt.clone(),
            traceparent: context.traceparent.clone(),
            scope: context.scope.clone(),
            session_token: OnceLock::new(),
            deadline: context.deadline,
            telling: Telling { stream, include_usage, continuous_usage, interval },
        }
    }

    /// How urgent it is to a leader, as vLLM counts: lower goes first.
    pub(crate) fn urgency(&self) -> i32 {
        self.priority.saturating_neg()
    }

    /// What the stream of one prompt must know, which may go on elsewhere once it has begun or not.
    pub(crate) fn stream_options(&self, prompt: &PreparedPrompt, resumable: bool) -> StreamOptions {
        let options = &prompt.options;
        let eos = options.eos_token_ids.iter().filter(|_| !options.ignore_eos);
        StreamOptions {
            request: prompt.request,
            prompt_tokens: prompt.tokens.len() as u32,
            stop: self.stop.clone(),
            end_tokens: eos.chain(&options.stop_token_ids).copied().collect(),
            prompt_only: prompt.prompt_only,
            deadline: self.deadline,
            resumable,
        }
    }
}

/// What the body claims, as the gateway counts. More than the wire holds means "as urgent, or as
/// little, as can be".
fn asked_priority(asked: &Sampling) -> Option<i32> {
    let claimed = asked.priority?.clamp(-i64::from(i32::MAX), i32::MAX.into());
    Some(-(claimed as i32))
}
