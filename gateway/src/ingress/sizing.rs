//! From a prompt's tokens to a prompt with its options: cut, measured, given its room.

use troupe_runtime::{
    id::RequestId,
    wire::generate::{OutputKind, SamplingOptions},
};

use super::{context::new_id, limits, options, prepared::PreparedPrompt, seeds::Seeds};
use crate::{
    error::ApiError,
    model::Served,
    openai::common::{Sampling, Side},
};

/// What every prompt of a request is sized by.
pub(crate) struct Sizing<'a> {
    pub(crate) served: &'a Served,
    pub(crate) asked: &'a Sampling,
    pub(crate) seeds: &'a Seeds,
    /// As the client named it: `max_tokens` or its modern name.
    pub(crate) max_tokens: Option<i64>,
    /// If the client did not say; without one, all the room there is.
    pub(crate) default_max_tokens: Option<u32>,
    /// Complete but for the lengths.
    pub(crate) options: SamplingOptions,
    /// Only the prompt is wanted.
    pub(crate) prompt_only: bool,
}

impl Sizing<'_> {
    /// The prompt, ready to be placed.
    pub(crate) fn prompt(&self, mut tokens: Vec<u32>) -> Result<PreparedPrompt, ApiError> {
        let max_model_len = self.served.max_model_len;
        if let Some(keep) = self.keep()? {
            limits::truncate(&mut tokens, keep, self.cut_side());
        }
        self.check(&tokens)?;
        let room = limits::room(tokens.len(), max_model_len, self.prompt_only)?;
        let mut options = self.options.clone();
        if self.prompt_only {
            options.max_tokens = 0;
        } else {
            let caps = (max_model_len, self.served.model.defaults().max_new_tokens);
            options.max_tokens =
                options::max_tokens(self.max_tokens, self.default_max_tokens, room, caps)?;
            options.min_tokens = options::min_tokens(self.asked, options.max_tokens)?;
        }
        // As in vLLM, -1 is no seed.
        let seed = self.asked.seed.filter(|seed| *seed != -1);
        Ok(PreparedPrompt {
            request: RequestId(new_id()),
            tokens: tokens.into(),
            output: OutputKind::Tokens,
            options,
            // The bits are the key; their sign means nothing.
            seed: seed.map_or_else(|| self.seeds.next(), i64::cast_unsigned),
            prompt_only: self.prompt_only,
        })
    }

    /// Cuts a text that will be cut anyway, before it costs tokenizing.
    pub(crate) fn shorten(&self, text: &mut String) {
        // What is wrong with the number of tokens is told when they are known.
        if let Ok(Some(keep)) = self.keep() {
            let most = self.served.max_model_len as usize;
            // Twice as much as is kept, so that what the cut does to its neighbors is cut too.
            let tokens = keep.saturating_mul(2).min(most);
            let characters = tokens.saturating_mul(self.served.model.chars_per_token);
            limits::shorten(text, characters, self.cut_side());
        }
    }

    /// How many of a prompt's tokens are kept, if not all.
    fn keep(&self) -> Result<Option<usize>, ApiError> {
        let least = i64::from(!self.prompt_only);
        let output = self.max_tokens.or(self.default_max_tokens.map(i64::from)).unwrap_or(least);
        limits::keep(
            self.asked.truncate_prompt_tokens,
            output.max(least),
            self.served.max_model_len,
        )
    }

    fn cut_side(&self) -> Side {
        self.asked.truncation_side.unwrap_or(Side::Left)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), ApiError> {
        if tokens.is_empty() {
            let message = "Either prompt or prompt_embeds must be provided and non-empty.";
            return Err(ApiError::bad_request(message).at("prompt"));
        }
        let vocab_size = self.served.model.vocab_size;
        if let Some(token) = tokens.iter().find(|token| **token >= vocab_size) {
            let message = format!("Token id {token} is out of vocabulary");
            return Err(ApiError::bad_request(message).at("prompt"));
        }
        Ok(())
    }
}
