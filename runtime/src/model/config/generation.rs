//! `generation_config.json`: how the model's authors advise to sample, and where answers end.
//!
//! Only what a server can honor is read. A missing file is an empty config; a field that is absent
//! stays `None`, because "not said" and "said to be the usual value" differ for whoever merges it
//! with a request.

use std::path::Path;

use crate::model::{
    error::ModelError,
    json::{self, Fields},
};

/// The authors' advice; `None` is "not said".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The token that begins a text.
    pub bos_id: Option<u32>,
    /// The tokens that end an answer; often more than `config.json` names.
    pub eos_ids: Vec<u32>,
    /// Whether to sample at all; false is greedy.
    pub do_sample: Option<bool>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// How many most likely tokens; 0 is all.
    pub top_k: Option<u32>,
    /// Share of the most likely token's probability that others need.
    pub min_p: Option<f64>,
    /// Multiplicative penalty on tokens seen.
    pub repetition_penalty: Option<f64>,
    /// Most output tokens.
    pub max_new_tokens: Option<u32>,
}

impl GenerationConfig {
    /// Reads the file. `vocab_size` is the model's, which every token id must be below.
    ///
    /// # Errors
    /// [`ModelError`] naming file, field, what stands there and what could.
    pub fn load(file: &Path, vocab_size: usize) -> Result<Self, ModelError> {
        Self::parse(file, &json::read_bounded(file, super::MAX_CONFIG_BYTES)?, vocab_size)
    }

    /// Parses the file's bytes; `file` is for errors only.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &Path, bytes: &[u8], vocab_size: usize) -> Result<Self, ModelError> {
        let map = json::parse_object(file, bytes)?;
        let fields = Fields::new(file, &map);
        let whole = |name, range| -> Result<Option<u32>, ModelError> {
            Ok(fields.integer(name, range)?.map(|number| number as u32))
        };
        Ok(Self {
            bos_id: fields.token_ids("bos_token_id", vocab_size)?.first().copied(),
            eos_ids: fields.token_ids("eos_token_id", vocab_size)?,
            do_sample: fields.flag("do_sample")?,
            temperature: fields.number("temperature", 0.0..=100.0)?,
            top_p: fields.number("top_p", 0.0..=1.0)?,
            top_k: whole("top_k", 0..=u64::from(u32::MAX))?,
            min_p: fields.number("min_p", 0.0..=1.0)?,
            repetition_penalty: fields.number("repetition_penalty", 1e-3..=1e3)?,
            max_new_tokens: whole("max_new_tokens", 1..=u64::from(u32::MAX))?,
        })
    }
}
