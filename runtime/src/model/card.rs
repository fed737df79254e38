//! All that is known of a model without its weights, loaded at once from its folder.

use std::sync::Arc;

use super::{
    config::{GenerationConfig, ModelConfig},
    error::ModelError,
    pooling::SentenceFiles,
    source::{ModelFiles, ModelSource},
    template::ChatTemplates,
    tokenizer::Tokenizer,
    tokenizer_config::TokenizerConfig,
};
use crate::id::Digest;

/// A model without its weights. Gateways and leaders load the same one and compare digests.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// What the user called it.
    pub name: String,
    /// Its files.
    pub files: ModelFiles,
    /// Shape and wiring.
    pub config: ModelConfig,
    /// The authors' advice on sampling; empty if there is no such file.
    pub generation: GenerationConfig,
    /// What the files of sentence-transformers say, if it is a model of theirs.
    pub sentences: Option<SentenceFiles>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Chat to prompt, if the model is one for chats.
    pub templates: Option<Arc<ChatTemplates>>,
    /// Equal for tokenizers that give equal tokens.
    pub tokenizer_digest: Digest,
    /// Every token that ends an answer, ascending: those of the config and of the advice.
    pub stop_ids: Vec<u32>,
}

impl ModelCard {
    /// Loads everything from a model's folder and checks that it belongs together. The weights need
    /// not be there.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and what is wrong with it.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        let files = ModelFiles::find_text(&source.folder)?;
        let config = ModelConfig::load(&files.config)?;
        let generation = match &files.generation_config {
            Some(file) => GenerationConfig::load(file, config.vocab_size)?,
            None => GenerationConfig::default(),
        };
        let tokenizer_config = TokenizerConfig::load(
            files.tokenizer_config.as_deref(),
            files.special_tokens_map.as_deref(),
        )?;
        let tokenizer = Tokenizer::load(&files.tokenizer, &tokenizer_config)?;
        tokenizer.check_fits(&config)?;
        let templates = ChatTemplates::load(files.chat_template.as_deref(), &tokenizer_config)?;
        let sentences = SentenceFiles::load(&source.folder)?;
        let mut stop_ids = [config.eos_ids.as_slice(), &generation.eos_ids].concat();
        stop_ids.sort_unstable();
        stop_ids.dedup();
        Ok(Self {
            name: source.name.clone(),
            tokenizer_digest: files.tokenizer_digest()?,
            files,
            config,
            generation,
            sentences,
            tokenizer: Arc::new(tokenizer),
            templates: templates.map(Arc::new),
            stop_ids,
        })
    }
}
