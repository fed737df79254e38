//! A model's tokens as the bytes that they stand for, sorted into a trie.
//!
//! Special tokens are not text: they stand under a marker byte that no text has, so that no grammar
//! over text can allow one, while a Lark grammar can ask for one by name (`<|name|>`) or number
//! (`<[123]>`). Ids without a token, and tokens that could not be told from the marker (the lone
//! byte 0xFF, which UTF-8 never has), are in no set.
//!
//! Every way of cutting a text into tokens is allowed, not only the tokenizer's own: the model
//! chooses, as it does without a grammar.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::GrammarError;
use crate::model::{detokenize::Decoding, tokenizer::Tokenizer};

/// The vocabulary, with all tokens that end an output.
pub(super) fn environment(tokenizer: &Tokenizer, stop_ids: &[u32]) -> Result<TokEnv, GrammarError> {
    if *tokenizer.decoding() == Decoding::Other {
        return Err(GrammarError::Model("its tokens do not stand for bytes"));
    }
    let size = tokenizer.vocab_size();
    if size > MAX_TOKENS {
        return Err(GrammarError::Model("its vocabulary is too large"));
    }
    let stops: Vec<u32> = stop_ids.iter().copied().filter(|id| (*id as usize) < size).collect();
    let Some(&first) = stops.first() else {
        return Err(GrammarError::Model("it names no token that ends an output"));
    };
    let words: Vec<Vec<u8>> = (0..size as u32)
        .map(|id| word(tokenizer, id, stops.contains(&id)).unwrap_or_default())
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(size as u32, first), &words);
    Ok(Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(&stops))))
}

fn word(tokenizer: &Tokenizer, id: u32, is_end: bool) -> Option<Vec<u8>> {
    if is_end || tokenizer.is_special(id) {
        let name = tokenizer.token(id)?;
        let word = [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
        return Some(word).filter(|word| word.len() <= MAX_TOKEN_BYTES);
    }
    let bytes = tokenizer.bytes(id)?;
    let usable =
        bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) && bytes.len() <= MAX_TOKEN_BYTES;
    usable.then_some(bytes)
}

/// The trie has 24 bits for an id and 22 for a node; four nodes per token are more than any
/// vocabulary needs.
const MAX_TOKENS: usize = 1 << 20;
/// The trie's depth is bounded by 10 bits.
const MAX_TOKEN_BYTES: usize = 1000;
