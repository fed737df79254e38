//! How a request's answers are to be read, from what the model does and what the client wants.

use std::sync::Arc;

use super::{thinking::Thinking, tools::ToolChoice};
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
}

impl Wanted {
    /// How answers are read whose reasoning begins like this.
    pub(crate) fn rules(
        self,
        model: &Arc<ServedModel>,
        thinking: Option<Thinking>,
    ) -> MessageRules {
        let families = model.families();
        let tools = match &self.choice {
            ToolChoice::None => None,
            ToolChoice::Auto => {
                families.tools.map(|family| Syntax::Family(family, Arc::clone(&self.types)))
            }
            ToolChoice::Required => Some(Syntax::Required),
            ToolChoice::Named(name) => Some(Syntax::Named(name.clone())),
        };
        let thought = thinking.and_then(|Thinking { tokens, inside, .. }| {
            let (open, close) = tokens?;
            Some(ThoughtMarkers { model: Arc::clone(model), open, close, inside })
        });
        let reasoning = thinking.map(|thinking| (thinking.markers, thinking.inside));
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
