//! The parser of one answer.

use super::{
    family::Syntax,
    piece::{Piece, Pieces},
    reasoning::{Markers, Reasoning, Split},
    tools::Tools,
};

/// How a request's answers are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplySyntax {
    /// How reasoning is marked, and whether the prompt has opened it.
    pub(crate) reasoning: Option<(Markers, bool)>,
    /// How calls are written, if any may be made.
    pub(crate) tools: Option<Syntax>,
}

/// Reads one answer as it comes. Without reasoning and tools everything is content, at once.
pub(crate) struct ReplyParser {
    reasoning: Option<Reasoning>,
    tools: Option<Tools>,
}

impl ReplyParser {
    /// For one answer.
    pub(crate) fn new(syntax: &ReplySyntax) -> Self {
        let reasoning = syntax.reasoning.map(|(markers, inside)| Reasoning::new(markers, inside));
        Self { reasoning, tools: syntax.tools.clone().map(Tools::new) }
    }

    /// The next part of its text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Pieces::default();
        match &mut self.reasoning {
            None => self.content(text, &mut out),
            Some(reasoning) => {
                let splits: Vec<Split> = text.chars().map(|c| reasoning.push(c)).collect();
                splits.into_iter().for_each(|split| self.split(&split, &mut out));
            }
        }
        out.into_vec()
    }

    /// The text has ended: what was held back.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut out = Pieces::default();
        if let Some(split) = self.reasoning.as_mut().map(Reasoning::finish) {
            self.split(&split, &mut out);
        }
        if let Some(tools) = &mut self.tools {
            tools.finish(&mut out);
        }
        out.into_vec()
    }

    fn split(&mut self, split: &Split, out: &mut Pieces) {
        out.reasoning(&split.reasoning);
        self.content(&split.content, out);
    }

    fn content(&mut self, text: &str, out: &mut Pieces) {
        match &mut self.tools {
            Some(tools) => tools.push(text, out),
            None => out.content(text),
        }
    }
}
