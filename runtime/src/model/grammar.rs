//! What an output must match, token by token: which tokens may come next.
//!
//! [`GrammarFactory`] is made once per model, from its own tokenizer; [`GrammarFactory::compile`]
//! turns a [`Grammar`] (a JSON schema, a regular expression, a grammar in Lark or GBNF) into a
//! [`Matcher`].
//! A matcher takes the tokens of one output and says after each which ones may follow. It depends
//! on the grammar and on those tokens alone, so a sequence that moved or was preempted is brought
//! back by giving a new matcher the same tokens. When the grammar is complete, only the model's end
//! tokens are allowed.
//!
//! The gateway compiles to refuse what cannot be served before it answers anything; the last stage
//! compiles the same text once more to make the masks. The work is done by `llguidance`:
//! derivatives of regular expressions for the lexemes, an Earley parser above, a trie of the
//! vocabulary below.
//!
//! A grammar is a program that a stranger wrote. What bounds it:
//! - its text ([`MAX_TEXT_BYTES`]) and its nesting, looked at before anything is built ([`weigh`]);
//! - counted work while it is compiled and for every mask ([`limits`]), the same on every machine;
//! - a stack of its own for the compiler, which is recursive ([`STACK_BYTES`]).
//!
//! What is not here: deadlines and caches, which belong to who compiles.
//!
//! - [`lark`]: parts of a Lark grammar, written; [`gbnf`]: GBNF as Lark
//! - [`vocabulary`]: the tokens' bytes as a trie
//! - [`matcher`]: one output under way
//! - [`weigh`]: what is too large, too deep or too entangled to be compiled

mod gbnf;
pub mod lark;
mod matcher;
mod vocabulary;
mod weigh;

use std::{fmt, panic::AssertUnwindSafe};

use llguidance::{
    ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::InferenceCapabilities,
};
use serde_json::Value;

pub use self::matcher::Matcher;
use super::tokenizer::Tokenizer;
use crate::wire::generate::Grammar;

/// Longest text of a grammar. OpenAI allows 120,000 characters of names and values in a schema.
pub const MAX_TEXT_BYTES: usize = 128 << 10;

/// Why an output cannot be held to a grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The text is too long.
    #[error("{what} has {bytes} bytes, {MAX_TEXT_BYTES} are possible")]
    TooLong {
        /// What kind of grammar.
        what: &'static str,
        /// Of its text.
        bytes: usize,
    },
    /// It means nothing, contradicts itself, uses what is not supported or costs too much.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// What kind of grammar.
        what: &'static str,
        /// For people; from the grammar's compiler as a rule.
        reason: String,
    },
    /// The model cannot be used with any grammar.
    #[error("this model cannot be held to a grammar: {0}")]
    Model(&'static str),
    /// A token came that the grammar does not allow there.
    #[error("token {token} is not allowed at position {position} of the output")]
    Refused {
        /// The token.
        token: u32,
        /// Output tokens before it.
        position: usize,
    },
    /// The matcher ran into a limit or a fault; it is useless from now on.
    #[error("the grammar broke at position {position} of the output: {reason}")]
    Broke {
        /// Output tokens before.
        position: usize,
        /// For people.
        reason: String,
    },
}

/// Compiles grammars for one model. Immutable; share it behind an `Arc`.
pub struct GrammarFactory {
    parsers: ParserFactory,
    vocab_size: usize,
}

// === impl GrammarFactory ===

impl GrammarFactory {
    /// For a model that ends its outputs with any of `stop_ids`. Takes a moment: the vocabulary is
    /// sorted into tries, about a third of a second for 128,000 tokens.
    ///
    /// # Errors
    /// [`GrammarError::Model`] if the tokens are not bytes or no end is known.
    pub fn new(tokenizer: &Tokenizer, stop_ids: &[u32]) -> Result<Self, GrammarError> {
        let vocabulary = vocabulary::environment(tokenizer, stop_ids)?;
        let capabilities = InferenceCapabilities::default();
        let slices = SlicedBiasComputer::general_slices();
        let mut parsers = ParserFactory::new(&vocabulary, capabilities, &slices)
            .map_err(|_| GrammarError::Model("its vocabulary cannot be sorted into a trie"))?;
        parsers.quiet();
        *parsers.limits_mut() = limits();
        Ok(Self { parsers, vocab_size: tokenizer.vocab_size() })
    }

    /// Token ids are below this; what a model's vocabulary is padded with is never allowed.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// A matcher at the beginning of an output. Blocks for milliseconds as a rule, a second at
    /// worst: not for an async thread, nor for one that others wait for. What it gives has made
    /// its first mask, so a grammar that allows nothing at all is refused here.
    ///
    /// # Errors
    /// [`GrammarError::TooLong`] or [`GrammarError::Unusable`].
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let (what, text) = described(grammar);
        if text.len() > MAX_TEXT_BYTES {
            return Err(GrammarError::TooLong { what, bytes: text.len() });
        }
        let unusable = |reason: String| GrammarError::Unusable { what, reason };
        let compile = || -> Result<Matcher, String> {
            let parser = self.parsers.create_parser(parsed(grammar)?);
            let mut matcher = Matcher::new(llguidance::Matcher::new(parser));
            matcher.allowed_mask().map_err(GrammarError::reason)?;
            Ok(matcher)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, AssertUnwindSafe(compile));
            let thread = thread.map_err(|error| unusable(format!("no thread for it: {error}")))?;
            let compiled = thread.join().unwrap_or_else(|_| Err("its compiler failed".into()));
            compiled.map_err(unusable)
        })
    }
}

impl fmt::Debug for GrammarFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrammarFactory({} tokens)", self.vocab_size)
    }
}

// === impl GrammarError ===

impl GrammarError {
    /// The same where other tokens of the output stand before what the grammar holds.
    #[must_use]
    pub fn behind(self, tokens: usize) -> Self {
        match self {
            Self::Refused { token, position } => {
                Self::Refused { token, position: position + tokens }
            }
            Self::Broke { position, reason } => Self::Broke { position: position + tokens, reason },
            other => other,
        }
    }

    /// The inner reason where there is one, for who names the grammar otherwise.
    fn reason(self) -> String {
        match self {
            Self::Unusable { reason, .. } | Self::Broke { reason, .. } => reason,
            other => other.to_string(),
        }
    }
}

// === Helpers ===

fn described(grammar: &Grammar) -> (&'static str, &str) {
    match grammar {
        Grammar::JsonSchema(text) => ("the JSON schema", text),
        Grammar::Lark(text) => ("the grammar", text),
        Grammar::Regex(text) => ("the regular expression", text),
    }
}

/// The library's own form of a grammar, once it is known to be of bearable size.
fn parsed(grammar: &Grammar) -> Result<TopLevelGrammar, String> {
    match grammar {
        Grammar::JsonSchema(text) => {
            let schema: Value =
                serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
            weigh::schema(&schema)?;
            Ok(TopLevelGrammar::from_json_schema(lark::with_options(schema)))
        }
        Grammar::Lark(text) => {
            let text = lark::plain(text)?;
            weigh::lark(&text)?;
            Ok(TopLevelGrammar::from_lark(text))
        }
        Grammar::Regex(text) => {
            weigh::regex(text)?;
            Ok(TopLevelGrammar::from_lark(format!("start: {}", lark::regex(text)?)))
        }
    }
}

/// Counted work. Honest grammars compile in a few milliseconds and make a mask in a fraction of
/// one; at these bounds, with [`weigh`]'s, the worst that were found take a second and a quarter of
/// one.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // A state takes 1 to 2 kB and is kept as long as its grammar.
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        // Would run long expressions over the whole vocabulary without counting.
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Under this key of a schema the compiler finds its options.
pub const OPTIONS: &str = "x-guidance";

/// Longest white space between two tokens of JSON: a line's end and an indentation of 31 levels of
/// four.
const MAX_WHITESPACE: usize = 125;

/// Of the compiler's thread; only what is used becomes memory.
const STACK_BYTES: usize = 256 << 20;
