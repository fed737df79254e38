//! One choice's message as it comes: text read by the parser, calls with their ids, tokens of
//! thought counted.

use std::sync::Arc;

use troupe_runtime::wire::generate::FinishReason;
use uuid::Uuid;

use super::{
    parse::{
        piece::Piece,
        reply::{ReplyParser, ReplySyntax},
    },
    shape,
    stream::Delta,
};
use crate::{
    model::ServedModel,
    openai::tools::{FunctionDelta, ToolCallDelta},
};

/// How all messages of a request are read and told.
#[derive(Clone, Debug)]
pub(crate) struct MessageRules {
    /// How they are written.
    pub(crate) syntax: ReplySyntax,
    /// Only the first call of a message is told.
    pub(crate) one_call: bool,
    /// The client named the tool: that it was called is no reason to end.
    pub(crate) named: bool,
    /// Whether reasoning is told.
    pub(crate) include_reasoning: bool,
    pub(crate) ids: CallIds,
    /// If reasoning is told apart and its markers are tokens.
    pub(crate) thought: Option<ThoughtMarkers>,
}

/// What calls' ids look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallIds {
    /// As vLLM's.
    Long,
    /// Nine letters and digits: Mistral's templates refuse any other.
    Short,
}

/// The tokens that reasoning stands between.
#[derive(Clone, Debug)]
pub(crate) struct ThoughtMarkers {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) open: u32,
    pub(crate) close: u32,
    /// Whether the prompt has opened it.
    pub(crate) inside: bool,
}

/// One message on its way.
pub(crate) struct Message {
    rules: Arc<MessageRules>,
    parser: ReplyParser,
    calls: u32,
    thought: Thought,
    thought_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thought {
    /// Nothing but white space so far.
    Ahead,
    Inside,
    Over,
}

/// What a delta adds to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    /// At most one per call.
    pub(crate) calls: Vec<ToolCallDelta>,
}

// === impl Message ===

impl Message {
    pub(crate) fn new(rules: Arc<MessageRules>) -> Self {
        let parser = ReplyParser::new(&rules.syntax);
        let inside = rules.thought.as_ref().is_some_and(|thought| thought.inside);
        let thought = if inside { Thought::Inside } else { Thought::Ahead };
        Self { rules, parser, calls: 0, thought, thought_tokens: 0 }
    }

    /// What a delta adds.
    pub(crate) fn take(&mut self, delta: &Delta) -> Parts {
        self.count(&delta.tokens);
        let mut pieces = self.parser.push(&delta.text);
        if delta.end.is_some() {
            pieces.extend(self.parser.finish());
        }
        let mut parts = Parts::default();
        pieces.into_iter().for_each(|piece| self.add(piece, &mut parts));
        parts
    }

    /// Why a delta is the message's last, if it is.
    pub(crate) fn finish_reason(&self, delta: &Delta) -> Option<&'static str> {
        let stopped = delta.end.as_ref().is_some_and(|end| end.reason == FinishReason::Stop);
        if stopped && self.calls > 0 && !self.rules.named {
            return Some("tool_calls");
        }
        shape::finish_reason(delta)
    }

    /// Tokens between the markers, if those are tokens.
    pub(crate) fn thought_tokens(&self) -> Option<u64> {
        self.rules.thought.as_ref().map(|_| self.thought_tokens)
    }

    fn add(&mut self, piece: Piece, parts: &mut Parts) {
        let told = |index: u32| index == 0 || !self.rules.one_call;
        match piece {
            Piece::Reasoning(text) if self.rules.include_reasoning => {
                parts.reasoning.push_str(&text);
            }
            Piece::Reasoning(_) => {}
            Piece::Content(text) => parts.content.push_str(&text),
            Piece::ToolCall { index, name } if told(index) => {
                self.calls += 1;
                parts.calls.push(ToolCallDelta {
                    index,
                    id: Some(self.rules.ids.draw()),
                    kind: Some("function"),
                    function: FunctionDelta { name: Some(name), arguments: String::new() },
                });
            }
            Piece::ToolArguments { index, fragment } if told(index) => {
                match parts.calls.last_mut().filter(|call| call.index == index) {
                    Some(call) => call.function.arguments.push_str(&fragment),
                    None => parts.calls.push(ToolCallDelta {
                        index,
                        function: FunctionDelta { name: None, arguments: fragment },
                        ..ToolCallDelta::default()
                    }),
                }
            }
            Piece::ToolCall { .. } | Piece::ToolArguments { .. } => {}
        }
    }

    fn count(&mut self, tokens: &[u32]) {
        let Some(markers) = &self.rules.thought else { return };
        for token in tokens {
            match self.thought {
                Thought::Ahead if *token == markers.open => self.thought = Thought::Inside,
                Thought::Ahead if markers.model.token_text(*token).trim().is_empty() => {}
                Thought::Ahead => self.thought = Thought::Over,
                Thought::Inside if *token == markers.close => self.thought = Thought::Over,
                Thought::Inside => self.thought_tokens += 1,
                Thought::Over => {}
            }
        }
    }
}

// === impl CallIds ===

impl CallIds {
    /// A new id.
    fn draw(self) -> String {
        let drawn = Uuid::new_v4();
        match self {
            Self::Long => format!("chatcmpl-tool-{}", drawn.simple()),
            Self::Short => {
                let digits = std::iter::successors(Some(drawn.as_u128()), |left| Some(left / 62));
                let digits = digits.map(|left| ALPHABET[(left % 62) as usize]);
                digits.take(9).map(char::from).collect()
            }
        }
    }
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

// === impl Parts ===

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.reasoning.is_empty() && self.content.is_empty() && self.calls.is_empty()
    }
}
