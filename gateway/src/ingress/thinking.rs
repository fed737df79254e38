//! Reasoning before an answer: whether it comes, and that a grammar waits for its end.
//!
//! As in vLLM, what a model thinks is free and what it says is held to the form that was asked for.
//! Where the prompt has closed the reasoning (`enable_thinking: false`), the form holds from the
//! first token on; where it has not opened it, the model may begin with it or not. The markers have
//! to be tokens of the model for that; with others a form holds from the first token on.

use troupe_runtime::wire::generate::Reasoning;

use super::prepared::PreparedPrompt;
use crate::{
    egress::parse::{family::Beginning, reasoning::Markers},
    model::ServedModel,
};

/// How the answers to one prompt begin, for a model that reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thinking {
    pub(crate) markers: Markers,
    /// The markers, if they are tokens: the opening and the closing one.
    pub(crate) tokens: Option<(u32, u32)>,
    /// Whether the prompt has begun it.
    pub(crate) inside: bool,
    /// Whether it can still come, or go on.
    possible: bool,
}

impl Thinking {
    /// In the answers of a chat to this prompt; `begun` is the message that they go on with, if
    /// they go on with one.
    pub(crate) fn of(
        model: &ServedModel,
        prompt: &PreparedPrompt,
        begun: Option<&str>,
    ) -> Option<Self> {
        let family = model.families().reasoning?;
        let markers = family.markers();
        let beginning = match begun {
            Some(begun) if begun.rfind(markers.open) > begun.rfind(markers.close) => {
                Beginning::Inside
            }
            Some(begun) if !begun.trim().is_empty() => Beginning::Behind,
            _ => family.beginning(&end_of(model, prompt)),
        };
        let tokens = tokens(model, markers);
        // What cannot be told from the form's part has no place before it.
        let possible = beginning != Beginning::Behind
            && (tokens.is_some() || prompt.options.grammar.is_none());
        let inside = possible && beginning == Beginning::Inside;
        Some(Self { markers, tokens, inside, possible })
    }

    /// What a grammar has to wait for.
    pub(crate) fn before_grammar(self) -> Option<Reasoning> {
        let (open, close) = self.tokens.filter(|_| self.possible)?;
        Some(Reasoning { open, close, inside: self.inside })
    }
}

/// What a grammar has to wait for in a text that is completed: reasoning is not told apart from it,
/// so that none is expected, unless the prompt ends in the midst of it.
pub(crate) fn left_open(model: &ServedModel, prompt: &PreparedPrompt) -> Option<Reasoning> {
    let markers = model.families().reasoning?.markers();
    let (open, close) = tokens(model, markers)?;
    let inside = end_of(model, prompt).trim_end().ends_with(markers.open);
    inside.then_some(Reasoning { open, close, inside })
}

fn tokens(model: &ServedModel, markers: Markers) -> Option<(u32, u32)> {
    model.token_id(markers.open).zip(model.token_id(markers.close))
}

fn end_of(model: &ServedModel, prompt: &PreparedPrompt) -> String {
    let from = prompt.tokens.len().saturating_sub(PROMPT_END);
    // What cannot be decoded has opened nothing.
    model.decode(&prompt.tokens[from..]).unwrap_or_default()
}

/// Prompt tokens among which a marker may be the last that is said: itself and white space.
const PROMPT_END: usize = 16;
