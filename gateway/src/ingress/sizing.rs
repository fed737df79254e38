//! From a prompt's tokens to a prompt with its options: cut, measured, given its room.

use troupe_runtime::{id::RequestId, wire::generate::SamplingOptions};

use super::{limits, options, prepared::PreparedPrompt, seeds::Seeds};
use crate::{error::ApiError, model::Served, openai::common::Sampling};

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
        let keep_left = self.asked.truncation_side.as_deref() == Some("right");
        limits::truncate(&mut tokens, self.asked.truncate_prompt_tokens, keep_left, max_model_len)?;
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
        Ok(PreparedPrompt {
            request: RequestId::new(),
            tokens: tokens.into(),
            options,
            // The bits are the key; their sign means nothing.
            seed: self.asked.seed.map_or_else(|| self.seeds.next(), i64::cast_unsigned),
            prompt_only: self.prompt_only,
        })
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
