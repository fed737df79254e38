//! What every request was promised and what it got.
//!
//! The promise is [`FakeExecutor::next_token`] over the prompt and the output so far: what the
//! sequence would say if it were alone and computed from the start. It does not depend on batches,
//! chunks, hits, preemption, stages or drafts, and so neither may the answer.

use std::collections::BTreeMap;

use troupe_actors::{leader::request::RequestKey, worker::fake::FakeExecutor};
use troupe_runtime::wire::{
    generate::{Chunk, FinishReason, Generate, GenerateDown},
    step::StepPlan,
};

pub(super) struct Books {
    vocab_size: u32,
    window: Option<u32>,
    requests: BTreeMap<RequestKey, Asked>,
}

struct Asked {
    generate: Generate,
    longest: u32,
    /// Output of each choice so far, and whether it has ended.
    choices: BTreeMap<u32, (Vec<u32>, bool)>,
    may_fail: bool,
    closed: bool,
}

impl Books {
    pub(super) fn new(vocab_size: u32, window: Option<u32>) -> Self {
        Self { vocab_size, window, requests: BTreeMap::new() }
    }

    /// A request is about to be made of an engine that holds at most `longest` positions.
    pub(super) fn asked(&mut self, generate: &Generate, longest: u32) {
        let choice = |choice: &troupe_runtime::wire::generate::Choice| {
            (choice.index, (choice.output.clone(), false))
        };
        let asked = Asked {
            generate: generate.clone(),
            longest,
            choices: generate.choices.iter().map(choice).collect(),
            may_fail: false,
            closed: false,
        };
        assert!(self.requests.insert(key(generate), asked).is_none());
    }

    /// The seeds and choices that ended with what the leader said.
    pub(super) fn told(&mut self, key: RequestKey, down: &GenerateDown) -> Vec<(u64, u32)> {
        let follows = |tokens: &[u32]| follows(tokens, self.vocab_size, self.window);
        let asked = self.requests.get_mut(&key).expect("it was asked for");
        assert!(!asked.closed, "something after the end: {down:?}");
        let seed = asked.generate.seed;
        let ended = match down {
            GenerateDown::Chunk(chunk) => asked.take(chunk, follows).into_iter().collect(),
            GenerateDown::Refused(error) => {
                assert!(!asked.fits(), "it was refused: {error}");
                asked.end_all()
            }
            GenerateDown::Failed(error) | GenerateDown::Moved(error) => {
                assert!(asked.may_fail, "it failed: {error}");
                asked.end_all()
            }
        };
        ended.into_iter().map(|choice| (seed, choice)).collect()
    }

    pub(super) fn closed(&mut self, key: RequestKey) {
        let asked = self.requests.get_mut(&key).expect("it was asked for");
        assert!(!std::mem::replace(&mut asked.closed, true), "closed twice");
        assert!(asked.choices.values().all(|(_, ended)| *ended), "closed with an open choice");
    }

    /// Its client is gone; the seeds and choices that this ends.
    pub(super) fn over(&mut self, key: RequestKey) -> Vec<(u64, u32)> {
        let asked = self.requests.get_mut(&key).expect("it was asked for");
        let seed = asked.generate.seed;
        asked.end_all().into_iter().map(|choice| (seed, choice)).collect()
    }

    /// The gateway ends a choice; false if it has ended already.
    pub(super) fn finish(&mut self, key: RequestKey, choice: u32) -> bool {
        let asked = self.requests.get_mut(&key);
        let Some((_, ended)) = asked.and_then(|asked| asked.choices.get_mut(&choice)) else {
            return false;
        };
        !std::mem::replace(ended, true)
    }

    pub(super) fn may_fail(&mut self, key: RequestKey) {
        self.requests.get_mut(&key).expect("it was asked for").may_fail = true;
    }

    pub(super) fn is_open(&self, key: RequestKey) -> bool {
        self.requests.get(&key).is_some_and(|asked| asked.choices.values().any(|(_, end)| !end))
    }

    pub(super) fn seed(&self, key: RequestKey) -> u64 {
        self.requests[&key].generate.seed
    }

    /// Output tokens of all choices of a request so far.
    pub(super) fn produced(&self, key: RequestKey) -> usize {
        let asked = self.requests.get(&key);
        asked.map_or(0, |asked| asked.choices.values().map(|(output, _)| output.len()).sum())
    }

    /// A new sequence has the tokens that were asked for.
    pub(super) fn planned(&self, plan: &StepPlan) {
        for new in &plan.new {
            let asked = self.requests.values().find(|asked| asked.generate.seed == new.seed);
            let asked = asked.expect("somebody asked");
            assert!(asked.choices.get(&new.choice).is_some_and(|(_, ended)| !ended), "{new:?}");
            assert!(new.span.computed < new.tokens.len() as u32, "{new:?}");
        }
    }

    pub(super) fn check_all_ended(&self) {
        for (key, asked) in &self.requests {
            assert!(asked.closed, "{key:?} is open: {:?}", asked.choices);
        }
    }
}

impl Asked {
    fn fits(&self) -> bool {
        let output = self.generate.choices.iter().map(|choice| choice.output.len()).max();
        let output = output.unwrap_or(0);
        let wants = usize::from(self.generate.options.max_tokens > output as u32);
        self.generate.prompt.len() + output + wants <= self.longest as usize
    }

    /// Takes a chunk and says which choice has ended with it.
    fn take(&mut self, chunk: &Chunk, follows: impl Fn(&[u32]) -> u32) -> Option<u32> {
        let prompt_len = self.generate.prompt.len() as u32;
        let most = self.generate.options.max_tokens.min(self.longest - prompt_len);
        let (output, ended) = self.choices.get_mut(&chunk.choice).expect("a choice of its own");
        assert!(!*ended, "a chunk after the end: {chunk:?}");
        assert_eq!(chunk.position as usize, output.len(), "a gap");
        let mut reason = (most == 0).then_some(FinishReason::Length);
        for &token in &chunk.tokens {
            assert_eq!(reason, None, "a token after the last one");
            let before = [self.generate.prompt.as_slice(), output].concat();
            assert_eq!(token, follows(&before), "after {before:?}");
            output.push(token);
            let stops = self.generate.options.stop_token_ids.contains(&token);
            let is_last = output.len() as u32 >= most;
            reason = match (stops, is_last) {
                (true, _) => Some(FinishReason::Stop),
                (false, last) => last.then_some(FinishReason::Length),
            };
        }
        assert_eq!(chunk.finish.as_ref().map(|finish| finish.reason), reason);
        let finish = chunk.finish.as_ref()?;
        let usage = finish.usage;
        assert_eq!(usage.completion_tokens as usize, output.len());
        let known = self.generate.choices.iter().find(|choice| choice.index == chunk.choice);
        let moved = known.is_some_and(|choice| !choice.output.is_empty());
        let most_cached = prompt_len - u32::from(!moved);
        assert!(usage.cached_tokens <= most_cached, "the last token gives the logits: {usage:?}");
        *ended = true;
        Some(chunk.choice)
    }

    fn end_all(&mut self) -> Vec<u32> {
        let open = self.choices.iter_mut().filter(|(_, (_, ended))| !*ended);
        open.map(|(choice, (_, ended))| {
            *ended = true;
            *choice
        })
        .collect()
    }
}

/// The token that follows these in a model with this window, if it has one.
pub(super) fn follows(tokens: &[u32], vocab_size: u32, window: Option<u32>) -> u32 {
    match window {
        Some(window) => FakeExecutor::next_token_within(window, tokens, vocab_size),
        None => FakeExecutor::next_token(tokens, vocab_size),
    }
}

pub(super) fn key(generate: &Generate) -> RequestKey {
    RequestKey { request: generate.request, attempt: generate.attempt }
}
