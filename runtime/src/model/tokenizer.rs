//! Text to token ids and back, by `tokenizer.json`, exactly as the model was trained.
//!
//! The work is done by the Hugging Face `tokenizers` crate; this wrapper narrows it to what serving
//! needs, checks that tokenizer and model belong together, and turns off what the file may bring
//! along from training (truncation, padding). The crate trusts its file; where that is wrong it
//! panics, which is an error here: of the file when it is read, of one request later. Spaces are
//! never "cleaned up" after decoding, because a stream cannot take back a space that it has sent.

mod check;

use std::path::{Path, PathBuf};

use tokenizers::{PostProcessorWrapper, processors::template::TemplateProcessing};

use super::{
    config::ModelConfig,
    detokenize::Decoding,
    error::ModelError,
    gguf::{self, Gguf},
    guard::guarded,
    json,
    tokenizer_config::TokenizerConfig,
};

/// A tokenizer, immutable once loaded; share it behind an `Arc`.
pub struct Tokenizer {
    file: PathBuf,
    inner: tokenizers::Tokenizer,
    decoding: Decoding,
    vocab_size: usize,
}

/// What is done with special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Encoding adds those that the tokenizer puts around a text; decoding shows all.
    Include,
    /// Encoding adds none; decoding leaves them out.
    Exclude,
}

/// A text could not be encoded or tokens not be decoded; the tokenizer library's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer failed: {0}")]
pub struct TokenizeError(String);

impl Tokenizer {
    /// Reads `tokenizer.json` or what a GGUF file has instead; `config` is what stands beside it.
    ///
    /// # Errors
    /// [`ModelError`] if the file cannot be read or understood.
    pub fn load(file: &Path, config: &TokenizerConfig) -> Result<Self, ModelError> {
        let bytes = match gguf::is_gguf(file) {
            true => Gguf::open(file)?.tokenizer()?,
            false => json::read_bounded(file, MAX_BYTES)?,
        };
        Self::parse(file, &bytes, config)
    }

    /// Parses the bytes of a `tokenizer.json`; `file` is for errors only.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, ModelError> {
        let read = guarded(|| Self::read(file, bytes, config));
        let read = read.and_then(|read| read);
        read.map_err(|reason| ModelError::Tokenizer { file: file.to_owned(), reason })
    }

    fn read(file: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, String> {
        check::check(bytes)?;
        let text = |error: tokenizers::Error| error.to_string();
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(text)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(text)?;
        if let Some(processor) = flagged_processor(&inner, config)? {
            inner.with_post_processor(Some(processor));
        }
        let decoding = Decoding::of(&inner);
        // Ids may leave some out, so that there are more of them than tokens.
        let highest = inner.get_vocab(true).into_values().max();
        let vocab_size = highest.map_or(0, |id| id as usize + 1);
        // What would fail every text is the file's fault. That this one cannot be written in some
        // vocabulary is none.
        for special in [true, false] {
            let encoded = inner.encode_fast("a", special);
            encoded.map_or(Ok(()), |encoded| check_ids(encoded.get_ids(), vocab_size))?;
        }
        Ok(Self { file: file.to_owned(), inner, decoding, vocab_size })
    }

    /// Checks that every token has a row in the model's embedding and that the model's own special
    /// ids are tokens here.
    ///
    /// # Errors
    /// [`ModelError::TokenizerMismatch`], saying what contradicts.
    pub fn check_fits(&self, model: &ModelConfig) -> Result<(), ModelError> {
        let mismatch =
            |reason| Err(ModelError::TokenizerMismatch { file: self.file.clone(), reason });
        if self.vocab_size > model.vocab_size {
            return mismatch(format!(
                "it has {} tokens, but the model's `vocab_size` is {}; take the tokenizer that \
                 was published with the model",
                self.vocab_size, model.vocab_size
            ));
        }
        let ids = model.bos_id.iter().map(|id| ("bos_token_id", id));
        let ids = ids.chain(model.eos_ids.iter().map(|id| ("eos_token_id", id)));
        for (field, &id) in ids {
            if self.token(id).is_none() {
                return mismatch(format!(
                    "the model's `{field}` is {id}, which is no token of it; take the tokenizer \
                     that was published with the model"
                ));
            }
        }
        Ok(())
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// [`TokenizeError`] if the library cannot represent the text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizeError> {
        let encode = || self.inner.encode_fast(text, special == SpecialTokens::Include);
        let encoding = guarded(encode).map_err(TokenizeError)?;
        let encoding = encoding.map_err(|error| TokenizeError(error.to_string()))?;
        let ids = encoding.get_ids();
        check_ids(ids, self.vocab_size).map_err(TokenizeError)?;
        Ok(ids.to_vec())
    }

    /// The ids of two texts as one, such as a question and what may answer it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_pair(
        &self,
        (first, second): (&str, &str),
        special: SpecialTokens,
    ) -> Result<Vec<u32>, TokenizeError> {
        let encode = || self.inner.encode_fast((first, second), special == SpecialTokens::Include);
        let encoding = guarded(encode).map_err(TokenizeError)?;
        let encoding = encoding.map_err(|error| TokenizeError(error.to_string()))?;
        let ids = encoding.get_ids();
        check_ids(ids, self.vocab_size).map_err(TokenizeError)?;
        Ok(ids.to_vec())
    }

    /// The text of some ids, all at once. Bytes that are no UTF-8 become U+FFFD; ids that are no
    /// tokens (an embedding may have more rows than there are tokens) become nothing.
    ///
    /// # Errors
    /// [`TokenizeError`] if the library's decoder fails.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String, TokenizeError> {
        let decode = || self.inner.decode(ids, special == SpecialTokens::Exclude);
        guarded(decode).map_err(TokenizeError)?.map_err(|error| TokenizeError(error.to_string()))
    }

    /// The token as its vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`), if the id is one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as its vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes that a token stands for, out of context, if the id is one and the tokenizer's
    /// tokens are bytes at all. They need not be whole characters.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        Some(self.decoding.bytes(&self.token(id)?))
    }

    /// Whether an id is a special token: control, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| self.is_special_token(&token))
    }

    /// Whether decoding without special tokens leaves a token out.
    pub(super) fn is_special_token(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How tokens become text, one by one.
    pub(super) fn decoding(&self) -> &Decoding {
        &self.decoding
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file", &self.file)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

/// What is put around a text may have ids that the vocabulary has not, and no model a row for.
fn check_ids(ids: &[u32], vocab_size: usize) -> Result<(), String> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(format!("it makes token {id} of a text and has {vocab_size} tokens")),
    }
}

/// What to put around a text where the class of the tokenizer says so by flags: the Llama and Gemma
/// classes ignore the post-processor of `tokenizer.json` and go by `add_bos_token` (true if unsaid)
/// and `add_eos_token` (false if unsaid).
fn flagged_processor(
    inner: &tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Result<Option<PostProcessorWrapper>, String> {
    let class = config.class.as_deref().map(|class| class.trim_end_matches("Fast"));
    if !matches!(class, Some("LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer")) {
        return Ok(None);
    }
    let bos = config.add_bos_token.unwrap_or(true).then(|| config.token("bos_token")).flatten();
    let eos = config.add_eos_token.unwrap_or(false).then(|| config.token("eos_token")).flatten();
    let mut pieces = Vec::new();
    let mut special = Vec::new();
    for (token, before) in [(bos, true), (eos, false)] {
        if let Some(token) = token {
            let id = inner.token_to_id(token);
            let id = id.ok_or_else(|| format!("its special token {token:?} has no id"))?;
            special.push((token.to_owned(), id));
            pieces.push(token.to_owned());
        }
        if before {
            pieces.push("$A".to_owned());
        }
    }
    let processor = TemplateProcessing::builder()
        .try_single(pieces)
        .map_err(|error| error.to_string())?
        .special_tokens(special)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Some(processor.into()))
}

/// The largest published ones, with a quarter of a million tokens and their merges, are 35 MiB.
const MAX_BYTES: u64 = 256 << 20;
