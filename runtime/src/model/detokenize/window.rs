//! Any other decoder: the library decodes a short window of tokens twice, without and with the new
//! one, and the difference is the new text.
//!
//! The window begins at tokens whose text was handed out already, so that what a decoder does at
//! the beginning of a text happens outside of what is compared.

use crate::model::tokenizer::{SpecialTokens, Tokenizer};

/// Tokens from the last point at which text was handed out.
#[derive(Debug, Default)]
pub(super) struct Window {
    ids: Vec<u32>,
    /// How many of `ids` are context: their text was handed out.
    context: usize,
}

impl Window {
    /// Text that is certain with this token.
    pub(super) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        special: SpecialTokens,
        id: u32,
    ) -> String {
        self.ids.push(id);
        let text = self.fresh(tokenizer, special);
        let incomplete = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
        if incomplete && self.ids.len() - self.context < MAX_HELD {
            return String::new();
        }
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        text
    }

    /// What is left when no token follows.
    pub(super) fn finish(&mut self, tokenizer: &Tokenizer, special: SpecialTokens) -> String {
        self.fresh(tokenizer, special)
    }

    /// Takes all that has come as handed out.
    pub(super) fn forget(&mut self) {
        self.context = self.ids.len();
    }

    /// The text of the tokens after the context.
    fn fresh(&self, tokenizer: &Tokenizer, special: SpecialTokens) -> String {
        // A decoder that fails on some tokens fails on the whole text too: it then has no text.
        let decode = |ids| tokenizer.decode(ids, special).unwrap_or_default();
        let before = decode(&self.ids[..self.context]);
        let after = decode(&self.ids);
        after.strip_prefix(before.as_str()).unwrap_or(&after).to_owned()
    }
}

/// Held tokens at which text is handed out although a character seems incomplete, so that a stream
/// of bytes that never become characters costs a bounded window per token.
const MAX_HELD: usize = 32;
