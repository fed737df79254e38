//! The answer of `/v1/completions`.

use super::{
    logprobs::TokenNames,
    shape::{Head, Shape, finish_reason, json},
    stream::Delta,
};
use crate::openai::{
    common::Usage,
    completions::{Completion, CompletionChoice, CompletionLogprobs},
};

/// Folds deltas into completions.
pub(crate) struct CompletionShape {
    pub(crate) head: Head,
    /// Choices per prompt.
    pub(crate) n: u32,
    /// Whether log-probabilities of the output were asked for, and how to tell them.
    pub(crate) logprobs: Option<TokenNames>,
    /// Whether those of the prompt were, and how to tell them.
    pub(crate) prompt_logprobs: Option<TokenNames>,
    pub(crate) return_token_ids: bool,
    /// The prompt's text, if it is to stand before the output.
    pub(crate) prompts: Vec<PromptEcho>,
    /// One per choice of the answer.
    pub(crate) progress: Vec<Progress>,
}

/// What is told of a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct PromptEcho {
    pub(crate) tokens: Vec<u32>,
    /// Its text, if the prompt is to stand before the output.
    pub(crate) text: Option<String>,
}

/// How far one choice has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    begun: bool,
    /// Characters told of, for `text_offset`.
    offset: u32,
}

impl CompletionShape {
    fn choice(&mut self, index: u32, delta: Delta) -> CompletionChoice {
        let prompt = &self.prompts[(index / self.n) as usize];
        let progress = &mut self.progress[index as usize];
        let first = !std::mem::replace(&mut progress.begun, true);
        let echo = prompt.text.as_ref().filter(|_| first);
        let logprobs = self.logprobs.as_ref().map(|names| {
            let mut told = match echo {
                Some(_) => echoed(names, &prompt.tokens, &delta, &mut progress.offset),
                None => CompletionLogprobs::default(),
            };
            let each: Vec<_> = delta.logprobs.iter().map(Some).collect();
            let output = names.old_style(&delta.tokens, &each, &mut progress.offset);
            told.text_offset.extend(output.text_offset);
            told.token_logprobs.extend(output.token_logprobs);
            told.tokens.extend(output.tokens);
            told.top_logprobs.extend(output.top_logprobs);
            told
        });
        let of_prompt = self.prompt_logprobs.as_ref().filter(|_| first);
        let finish_reason = finish_reason(&delta);
        CompletionChoice {
            index,
            text: echo.cloned().unwrap_or_default() + &delta.text,
            logprobs,
            finish_reason,
            stop_reason: delta.end.and_then(|end| end.stop_reason),
            token_ids: self.return_token_ids.then_some(delta.tokens),
            prompt_token_ids: (self.return_token_ids && first).then(|| prompt.tokens.clone()),
            prompt_logprobs: of_prompt.map(|names| names.of_prompt(&delta.prompt_logprobs)),
        }
    }

    fn answer(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Vec<u8> {
        let Head { id, created, model } = self.head.clone();
        json(&Completion { id, object: "text_completion", created, model, choices, usage })
    }
}

/// The prompt's own log-probabilities; its first token has none.
fn echoed(
    names: &TokenNames,
    prompt: &[u32],
    delta: &Delta,
    offset: &mut u32,
) -> CompletionLogprobs {
    let later = delta.prompt_logprobs.iter().map(Some);
    let each: Vec<_> = std::iter::once(None).chain(later).collect();
    names.old_style(prompt, &each, offset)
}

impl Shape for CompletionShape {
    fn events(&mut self, index: u32, delta: Delta, usage: Option<Usage>) -> Vec<Vec<u8>> {
        let silent = delta.text.is_empty() && delta.end.is_none();
        let asked = self.logprobs.is_some() || self.return_token_ids;
        let begun = self.progress[index as usize].begun;
        if silent && begun && (!asked || delta.tokens.is_empty()) {
            return Vec::new();
        }
        let choice = self.choice(index, delta);
        vec![self.answer(vec![choice], usage)]
    }

    fn usage_event(&self, usage: Usage) -> Vec<u8> {
        self.answer(Vec::new(), Some(usage))
    }

    fn whole(&mut self, choices: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let choices = (0..).zip(choices).map(|(index, delta)| self.choice(index, delta)).collect();
        self.answer(choices, Some(usage))
    }
}
