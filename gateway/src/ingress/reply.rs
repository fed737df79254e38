//! How a request's answers are to be read, from what the model does and what the client wants.

use std::sync::Arc;

use super::{prepared::PreparedPrompt, tools::ToolChoice};
use crate::{
    egress::{
        message::{CallIds, MessageRules, ThoughtMarkers},
        parse::{
            family::{Syntax, ToolFamily, ToolTypes},
            reply::ReplySyntax,
        },
    },
    model::ServedModel,
};

/// What the client wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) choice: ToolChoice,
    pub(crate) types: Arc<ToolTypes>,
    pub(crate) one_call: bool,
    pub(crate) include_reasoning: bool,
    /// The message that the answer goes on with, if it goes on with one.
    pub(crate) begun: Option<String>,
}

/// Prompt tokens among which reasoning may have been opened last: a marker and white space.
const PROMPT_END: usize = 16;

impl Wanted {
    /// How answers to this prompt are read.
    pub(crate) fn rules(self, model: &Arc<ServedModel>, prompt: &PreparedPrompt) -> MessageRules {
        let families = model.families();
        let tools = match &self.choice {
            ToolChoice::None => None,
            ToolChoice::Auto => {
                families.tools.map(|family| Syntax::Family(family, Arc::clone(&self.types)))
            }
            ToolChoice::Required => Some(Syntax::Required),
            ToolChoice::Named(name) => Some(Syntax::Named(name.clone())),
        };
        // A call that a grammar forces is all there is.
        let forced = matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_));
        let reasoning = families.reasoning.filter(|_| !forced).map(|family| {
            let markers = family.markers();
            // A grammar holds from the first token on, so nothing can go on inside.
            let free = prompt.options.grammar.is_none();
            let inside = free
                && match &self.begun {
                    Some(begun) => begun.rfind(markers.open) > begun.rfind(markers.close),
                    None => family.begins_inside(&end_of(model, prompt)),
                };
            (markers, inside)
        });
        let thought = reasoning.and_then(|(markers, inside)| {
            let (open, close) = (model.token_id(markers.open)?, model.token_id(markers.close)?);
            Some(ThoughtMarkers { model: Arc::clone(model), open, close, inside })
        });
        MessageRules {
            syntax: ReplySyntax { reasoning, tools },
            one_call: self.one_call,
            named: matches!(self.choice, ToolChoice::Named(_)),
            include_reasoning: self.include_reasoning,
            ids: match families.tools {
                Some(ToolFamily::Mistral) => CallIds::Short,
                _ => CallIds::Long,
            },
            thought,
        }
    }
}

/// Whether a marker that the parser needs is a special token, which text would be without.
pub(crate) fn needs_special(model: &ServedModel, rules: &MessageRules) -> bool {
    let reasoning = rules.syntax.reasoning.map(|(markers, _)| [markers.open, markers.close]);
    let tools = match &rules.syntax.tools {
        Some(Syntax::Family(family, _)) => Some(family.markers()),
        _ => None,
    };
    let mut markers = reasoning.into_iter().flatten().chain(tools.into_iter().flatten());
    markers.any(|marker| model.is_special(marker))
}

fn end_of(model: &ServedModel, prompt: &PreparedPrompt) -> String {
    let from = prompt.tokens.len().saturating_sub(PROMPT_END);
    // What cannot be decoded has opened nothing.
    model.decode(&prompt.tokens[from..]).unwrap_or_default()
}
