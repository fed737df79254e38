//! The answer of `/v1/chat/completions`.

use super::{
    logprobs::TokenNames,
    message::{Message, Parts},
    shape::{Head, Shape, json},
    stream::Delta,
};
use crate::openai::{
    chat::{AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta},
    common::{CompletionTokensDetails, Usage},
    tools::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta},
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
    /// Per choice.
    pub(crate) messages: Vec<Message>,
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
        let (role, content) = (Some(self.role.clone()), Some(self.echo.clone()));
        let delta = ChatDelta { role, content, ..ChatDelta::default() };
        let mut chunk = self.chunk(vec![part(index, delta)], usage);
        if first_of_all {
            chunk.prompt_token_ids = self.prompt_token_ids.clone();
        }
        json(&chunk)
    }

    fn choice(&mut self, index: u32, delta: Delta) -> ChatChoice {
        let message = &mut self.messages[index as usize];
        let parts = message.take(&delta);
        let finish_reason = message.finish_reason(&delta);
        ChatChoice {
            index,
            message: self.message(parts),
            logprobs: self.logprobs.as_ref().map(|names| names.new_style(&delta.logprobs)),
            finish_reason,
            stop_reason: delta.end.and_then(|end| end.stop_reason),
            token_ids: self.prompt_token_ids.is_some().then_some(delta.tokens),
        }
    }

    fn message(&self, parts: Parts) -> AssistantMessage {
        let content = self.echo.clone() + &parts.content;
        let reasoning = (!parts.reasoning.is_empty()).then_some(parts.reasoning);
        let nothing_else = reasoning.is_none() && parts.calls.is_empty();
        AssistantMessage {
            role: self.role.clone(),
            reasoning_content: reasoning.clone(),
            reasoning,
            content: (nothing_else || !content.is_empty()).then_some(content),
            tool_calls: parts.calls.into_iter().map(whole_call).collect(),
            ..AssistantMessage::default()
        }
    }

    /// With what is known of the completion tokens.
    fn detailed(&self, usage: Usage) -> Usage {
        let thought = self.messages.iter().map(Message::thought_tokens);
        let completion_tokens_details = thought
            .sum::<Option<u64>>()
            .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens });
        Usage { completion_tokens_details, ..usage }
    }
}

/// A call that was read at once.
fn whole_call(call: ToolCallDelta) -> ToolCall {
    let FunctionDelta { name, arguments } = call.function;
    ToolCall {
        id: call.id.unwrap_or_default(),
        kind: "function",
        function: FunctionCall { name: name.unwrap_or_default(), arguments },
    }
}

/// What a delta adds, as the stream tells it; what shows nothing is an empty text.
fn parts_delta(parts: Parts, is_last: bool) -> ChatDelta {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let shows_nothing = parts.is_empty() && !is_last;
    let reasoning = some(parts.reasoning);
    ChatDelta {
        role: None,
        content: some(parts.content).or_else(|| shows_nothing.then(String::new)),
        reasoning_content: reasoning.clone(),
        reasoning,
        tool_calls: parts.calls,
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
        let message = &mut self.messages[index as usize];
        let parts = message.take(&delta);
        let finish_reason = message.finish_reason(&delta);
        let is_last = delta.end.is_some();
        let silent = parts.is_empty() && !is_last;
        let asked = self.logprobs.is_some() || self.prompt_token_ids.is_some();
        if silent && (!asked || delta.tokens.is_empty()) {
            return events;
        }
        let choice = ChatChunkChoice {
            logprobs: self.logprobs.as_ref().map(|names| names.new_style(&delta.logprobs)),
            finish_reason,
            stop_reason: delta.end.and_then(|end| end.stop_reason),
            token_ids: self.prompt_token_ids.is_some().then_some(delta.tokens),
            ..part(index, parts_delta(parts, is_last))
        };
        events.push(json(&self.chunk(vec![choice], usage)));
        events
    }

    fn usage_event(&self, usage: Usage) -> Vec<u8> {
        json(&self.chunk(Vec::new(), Some(self.detailed(usage))))
    }

    fn whole(&mut self, choices: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let of_prompt = choices.first().map(|delta| delta.prompt_logprobs.clone());
        let prompt_logprobs = self
            .prompt_logprobs
            .as_ref()
            .zip(of_prompt)
            .map(|(names, logprobs)| names.of_prompt(&logprobs));
        let indexed = (0..).zip(choices);
        let choices = indexed.map(|(index, delta)| self.choice(index, delta)).collect();
        let Head { id, created, model } = self.head.clone();
        json(&ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            choices,
            usage: self.detailed(usage),
            prompt_token_ids: self.prompt_token_ids.clone(),
            prompt_logprobs,
        })
    }
}
