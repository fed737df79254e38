//! Which tokens random prompts are made of.
//!
//! Prompts are sent as tokens, so that their length is exact whatever the tokenizer would make of
//! their text. That needs ids which the model has and which are plain text: a special token could
//! end a turn or stand for an image. Without a tokenizer at hand the server is asked to tokenize a
//! long list of syllables: what comes back is in its vocabulary and is no special token. With
//! `--tokenizer` every token that is not special is taken.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use troupe_runtime::model::{
    source::{ModelAccess, ModelSource},
    tokenizer::{SpecialTokens, Tokenizer},
    tokenizer_config::TokenizerConfig,
};

use super::target::Target;
use crate::{cli::Failure, client::answer::Answer};

/// A model's tokens and texts: from a tokenizer here, or by asking the server for its own.
pub(crate) struct Vocabulary {
    target: Target,
    tokenizer: Option<Tokenizer>,
}

impl Vocabulary {
    /// Of the model behind `target`; `tokenizer` is a model's folder or name, as `serve` takes it.
    pub(crate) fn new(
        target: &Target,
        tokenizer: Option<&str>,
        hub: &ModelAccess,
    ) -> Result<Self, Failure> {
        let load = |name: &str| {
            let file = ModelSource::resolve(name, hub)?.folder.join("tokenizer.json");
            Tokenizer::load(&file, &TokenizerConfig::default())
        };
        let tokenizer = tokenizer.map(load).transpose().map_err(|error| Failure::of(&error))?;
        Ok(Self { target: target.clone(), tokenizer })
    }

    /// Tokens that are plain text, in ascending order.
    pub(crate) async fn plain_tokens(&self) -> Result<Vec<u32>, Failure> {
        let tokens: BTreeSet<u32> = match &self.tokenizer {
            Some(tokenizer) => (0..tokenizer.vocab_size() as u32)
                .filter(|id| tokenizer.token(*id).is_some() && !tokenizer.is_special(*id))
                .collect(),
            None => self.syllables().await?,
        };
        if tokens.len() < FEWEST {
            return Err(Failure::run(format!(
                "the tokenizer makes only {} different tokens of a long text; give --tokenizer",
                tokens.len()
            )));
        }
        Ok(tokens.into_iter().collect())
    }

    /// The tokens of many syllables, in texts that the model has room for even if each letter is a
    /// token; where that is little, a part of the syllables has to do.
    async fn syllables(&self) -> Result<BTreeSet<u32>, Failure> {
        let room = self.target.max_model_len.unwrap_or(u64::MAX) as usize;
        let (all, mut tokens) = (syllables(), BTreeSet::new());
        for some in all.chunks((room / SYLLABLE).clamp(1, all.len())).take(MOST_TEXTS) {
            tokens.extend(self.encode(&some.concat()).await?);
        }
        Ok(tokens)
    }

    /// How many tokens a text has.
    pub(crate) async fn count(&self, text: &str) -> Result<usize, Failure> {
        Ok(self.encode(text).await?.len())
    }

    async fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        if let Some(tokenizer) = &self.tokenizer {
            let tokens = tokenizer.encode(text, SpecialTokens::Exclude);
            return tokens.map_err(|error| Failure::of(&error));
        }
        let body = json!({
            "model": self.target.model, "prompt": text, "add_special_tokens": false,
        });
        let tokens = self.asked("/tokenize", &body).await?["tokens"].take();
        serde_json::from_value(tokens)
            .map_err(|error| Failure::run(format!("/tokenize answers without tokens: {error}")))
    }

    /// The text of some tokens. What comes of tokenizing it may be another number of tokens.
    pub(crate) async fn decode(&self, tokens: &[u32]) -> Result<String, Failure> {
        if let Some(tokenizer) = &self.tokenizer {
            let text = tokenizer.decode(tokens, SpecialTokens::Exclude);
            return text.map_err(|error| Failure::of(&error));
        }
        let body = json!({"model": self.target.model, "tokens": tokens});
        match self.asked("/detokenize", &body).await?["prompt"].take() {
            Value::String(text) => Ok(text),
            _ => Err(Failure::run("/detokenize answers without a text")),
        }
    }

    async fn asked(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.target.client.ask(path, body.to_string(), PATIENCE).await;
        match answer {
            Ok(answer @ Answer { status: 200, .. }) => Ok(answer.json()),
            Ok(answer) => {
                Err(format!("{path} of the server ({}); give --tokenizer", answer.complaint()))
            }
            Err(error) => Err(error),
        }
        .map_err(Failure::run)
    }
}

/// Two thousand different words, each a space, a consonant, a vowel and a consonant.
fn syllables() -> Vec<String> {
    let mut all = Vec::new();
    for first in CONSONANTS.chars() {
        for vowel in "aeiou".chars() {
            for last in CONSONANTS.chars() {
                all.push(format!(" {first}{vowel}{last}"));
            }
        }
    }
    all
}

/// Letters of a syllable, with its space.
const SYLLABLE: usize = 4;
const MOST_TEXTS: usize = 32;
const CONSONANTS: &str = "bcdfghjklmnpqrstvwxyz";
/// Below it a tokenizer knows no syllables, and prompts would be one token over and over.
const FEWEST: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);
