//! Models that read a text whole and write none: each position sees those behind it as well, where it
//! stands is told by a table of learned rows, and what comes out is a vector for each position.

use super::parse::MAX_WIDTH;
use crate::model::{error::ModelError, json::Fields};

/// What such a model has that others have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// Rows of the table that tells the first text of a pair from the second. A single text is of
    /// type 0.
    pub token_types: usize,
}

impl Encoder {
    /// Reads what a BERT's config says.
    ///
    /// # Errors
    /// [`ModelError`] on what is another model by the same name.
    pub(super) fn parse(config: &Fields<'_>) -> Result<Self, ModelError> {
        match config.text("position_embedding_type")? {
            None | Some("absolute") => {}
            Some(_) => {
                let expected = "positions are known as a table of rows, `absolute`";
                return Err(config.wrong("position_embedding_type", expected));
            }
        }
        for field in ["is_decoder", "add_cross_attention"] {
            if config.flag(field)?.unwrap_or(false) {
                return Err(config.wrong(field, "this family is known as an encoder"));
            }
        }
        let token_types = config.integer("type_vocab_size", 1..=MAX_WIDTH)?.unwrap_or(2);
        Ok(Self { token_types: token_types as usize })
    }
}
