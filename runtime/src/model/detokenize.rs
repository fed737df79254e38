//! Token ids to text as they come, one stream at a time.
//!
//! Whatever is handed out is never taken back: the concatenation of all pieces equals decoding the
//! whole sequence at once, to the byte. A piece never ends inside a character; what could still
//! become one is held back, and at the end becomes U+FFFD as it does in a whole decode.
//!
//! Two families cover nearly every model and are decoded natively, token by token in constant time:
//! *byte-level* (each character of a token is one byte; bytes are UTF-8 across tokens) and
//! *sentencepiece* (`▁` is a space; a run of `<0xNN>` tokens is UTF-8 or, as a whole, is not, so it
//! is held back until it ends; one leading space of the text is dropped). Everything else is
//! decoded by the library over a short window that moves along.

mod byte_level;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;

use self::{byte_level::ByteLevel, sentencepiece::Sentencepiece, window::Window};
use super::tokenizer::{SpecialTokens, Tokenizer};

/// How a tokenizer's tokens become text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decoding {
    /// Characters that stand for bytes.
    ByteLevel,
    /// `▁` for spaces, and byte tokens.
    Sentencepiece(sentencepiece::Rules),
    /// Whatever the library does.
    Other,
}

impl Decoding {
    /// Recognizes the decoder of a tokenizer.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        // The library keeps the decoders' fields to itself, but writes them as they stand in files.
        let decoder = tokenizer.get_decoder().and_then(|found| serde_json::to_value(found).ok());
        let Some(decoder) = decoder else {
            return Self::Other;
        };
        if decoder["type"] == "ByteLevel" {
            return Self::ByteLevel;
        }
        sentencepiece::Rules::of(&decoder).map_or(Self::Other, Self::Sentencepiece)
    }

    /// The bytes of one token, out of context.
    pub(super) fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => byte_level::token_bytes(token),
            Self::Sentencepiece(rules) => rules.token_bytes(token),
            Self::Other => token.as_bytes().to_vec(),
        }
    }
}

/// One stream's detokenizer.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    special: SpecialTokens,
    state: State,
    chars: usize,
}

/// What one token added to the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that is now certain; empty while a character is incomplete.
    pub text: String,
    /// Characters of text before this piece: where the token's text begins, for log-probabilities.
    pub offset: usize,
}

#[derive(Debug)]
enum State {
    ByteLevel(ByteLevel),
    Sentencepiece(Sentencepiece),
    Window(Window),
}

impl Detokenizer {
    /// A stream whose text begins with its first token.
    pub fn new(tokenizer: Arc<Tokenizer>, special: SpecialTokens) -> Self {
        let state = match tokenizer.decoding() {
            Decoding::ByteLevel => State::ByteLevel(ByteLevel::default()),
            Decoding::Sentencepiece(rules) => State::Sentencepiece(Sentencepiece::new(rules)),
            Decoding::Other => State::Window(Window::default()),
        };
        Self { tokenizer, special, state, chars: 0 }
    }

    /// A stream that continues a prompt: its text is what the prompt's text is prolonged by, so a
    /// space at its beginning is kept. Only the prompt's last tokens matter.
    pub fn continuing(tokenizer: Arc<Tokenizer>, special: SpecialTokens, prompt: &[u32]) -> Self {
        let mut stream = Self::new(tokenizer, special);
        for &id in &prompt[prompt.len().saturating_sub(PROMPT_TOKENS)..] {
            stream.push(id);
        }
        match &mut stream.state {
            State::ByteLevel(_) => {}
            State::Sentencepiece(state) => state.forget(),
            State::Window(window) => window.forget(),
        }
        stream.chars = 0;
        stream
    }

    /// Takes one token and gives the text that became certain with it.
    pub fn push(&mut self, id: u32) -> Piece {
        let Self { tokenizer, special, state, .. } = self;
        let token = || {
            let token = tokenizer.token(id)?;
            let is_hidden =
                *special == SpecialTokens::Exclude && tokenizer.is_special_token(&token);
            (!is_hidden).then_some(token)
        };
        let text = match state {
            State::ByteLevel(state) => token().map(|token| state.push(&token)),
            State::Sentencepiece(state) => token().map(|token| state.push(token)),
            State::Window(window) => Some(window.push(tokenizer, *special, id)),
        };
        self.piece(text.unwrap_or_default())
    }

    /// Ends the stream and gives what was held back.
    pub fn finish(mut self) -> Piece {
        let text = match &mut self.state {
            State::Window(window) => window.finish(&self.tokenizer, self.special),
            State::ByteLevel(state) => state.finish(),
            State::Sentencepiece(state) => state.finish(),
        };
        self.piece(text)
    }

    fn piece(&mut self, text: String) -> Piece {
        let offset = self.chars;
        self.chars += text.chars().count();
        Piece { text, offset }
    }
}

/// A character has at most four bytes, so no more tokens than that can hang over the prompt's end;
/// twice that leaves room for special tokens between.
const PROMPT_TOKENS: usize = 8;
