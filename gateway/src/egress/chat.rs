//! The answer of `/v1/chat/completions`.

use super::{
    logprobs::TokenNames,
    shape::{Head, Shape, finish_reason, json},
    stream::Delta,
};
use crate::openai::{
    chat::{AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta},
    common::Usage,
};

/// Folds deltas into chat completions.
pub(crate) struct ChatShape {
    pub(crate) head: Head,
    /// Whose message it is.
    pub(crate) role: String,
    /// Text of the conversation that stands before the output, if it was asked for.
    pub(crate) echo: String,
    /// Whether log-probabilities of the output were asked for, and how to tell them.
    pub(crate) logprobs: Option<TokenNames>,
    /// Whether those of the prompt were, and how to tell them.
    pub(crate) prompt_logprobs: Option<TokenNames>,
    /// The prompt, if its ids and the output's are to be told.
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    /// Per choice: whether its role was told.
    pub(crate) begun: Vec<bool>,
}

impl ChatShape {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        let Head { id, created, model } = self.head.clone();
        let object = "chat.completion.chunk";
        ChatChunk { id, object, created, model, choices, usage, prompt_token_ids: None }
    }

    /// The first event of a choice, which says who speaks.
    fn opening(&mut self, index: u32, usage: Option<Usage>) -> Vec<u8> {
        let first_of_all = !self.begun.contains(&true);
        self.begun[index as usize] = true;
        let delta = ChatDelta { role: Some(self.role.clone()), content: Some(self.echo.clone()) };
        let mut chunk = self.chunk(vec![part(index, delta)], usage);
        if first_of_all {
            chunk.prompt_token_ids = self.prompt_token_ids.clone();
        }
        json(&chunk)
    }

    fn choice(&self, index: u32, delta: Delta) -> ChatChoice {
        let message = AssistantMessage {
            role: self.role.clone(),
            content: Some(self.echo.clone() + &delta.text),
            ..AssistantMessage::default()
        };
        ChatChoice {
            index,
            message,
            logprobs: self.logprobs.as_ref().map(|names| names.new_style(&delta.logprobs)),
            finish_reason: finish_reason(&delta),
            stop_reason: delta.end.and_then(|end| end.stop_reason),
            token_ids: self.prompt_token_ids.is_some().then_some(delta.tokens),
        }
    }
}

fn part(index: u32, delta: ChatDelta) -> ChatChunkChoice {
    ChatChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
        token_ids: None,
    }
}

impl Shape for ChatShape {
    fn events(&mut self, index: u32, delta: Delta, usage: Option<Usage>) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        if !self.begun[index as usize] {
            let none_yet = usage.map(|usage| Usage::new(usage.prompt_tokens, 0));
            events.push(self.opening(index, none_yet));
        }
        let silent = delta.text.is_empty() && delta.end.is_none();
        let asked = self.logprobs.is_some() || self.prompt_token_ids.is_some();
        if silent && (!asked || delta.tokens.is_empty()) {
            return events;
        }
        let content = (!delta.text.is_empty() || delta.end.is_none()).then_some(delta.text.clone());
        let choice = ChatChunkChoice {
            logprobs: self.logprobs.as_ref().map(|names| names.new_style(&delta.logprobs)),
            finish_reason: finish_reason(&delta),
            stop_reason: delta.end.and_then(|end| end.stop_reason),
            token_ids: self.prompt_token_ids.is_some().then_some(delta.tokens),
            ..part(index, ChatDelta { role: None, content })
        };
        events.push(json(&self.chunk(vec![choice], usage)));
        events
    }

    fn usage_event(&self, usage: Usage) -> Vec<u8> {
        json(&self.chunk(Vec::new(), Some(usage)))
    }

    fn whole(&mut self, choices: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let of_prompt = choices.first().map(|delta| delta.prompt_logprobs.clone());
        let prompt_logprobs = self
            .prompt_logprobs
            .as_ref()
            .zip(of_prompt)
            .map(|(names, logprobs)| names.of_prompt(&logprobs));
        let choices = (0..).zip(choices).map(|(index, delta)| self.choice(index, delta)).collect();
        let Head { id, created, model } = self.head.clone();
        json(&ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            choices,
            usage,
            prompt_token_ids: self.prompt_token_ids.clone(),
            prompt_logprobs,
        })
    }
}
