//! Models that read a text whole and write none: each position sees those behind it as well, where
//! it stands is told by a table of learned rows, and what comes out is a vector for each position.

use super::{Architecture, parse::MAX_WIDTH};
use crate::model::{error::ModelError, json::Fields};

/// What such a model has that others have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// Rows of the table that tells the first text of a pair from the second. A single text is of
    /// type 0.
    pub token_types: usize,
    /// What becomes of the one number that a classifier makes of a pair of texts, if there is one.
    pub classifier: Option<ScoreActivation>,
}

/// What becomes of a classifier's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreActivation {
    /// It is the score.
    Identity,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

impl Encoder {
    /// Reads what a BERT's config says.
    ///
    /// # Errors
    /// [`ModelError`] on what is another model by the same name.
    pub(super) fn parse(
        config: &Fields<'_>,
        architecture: Architecture,
    ) -> Result<Self, ModelError> {
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
        let token_types = config.integer("type_vocab_size", 1..=MAX_WIDTH)?.unwrap_or(2) as usize;
        let scores = architecture == Architecture::BertClassifier;
        Ok(Self { token_types, classifier: scores.then(|| classifier(config)).transpose()? })
    }
}

/// What becomes of a classifier's number: as the tools of sentence-transformers wrote it down, by
/// whichever of their names.
fn classifier(config: &Fields<'_>) -> Result<ScoreActivation, ModelError> {
    let labels = config.object("id2label")?.map(|labels| labels.len());
    let labels = match config.integer("num_labels", 0..=MAX_WIDTH)? {
        Some(labels) => labels as usize,
        // As transformers has it.
        None => labels.unwrap_or(2),
    };
    if labels != 1 {
        let expected = format!("{labels} labels follow, and models with one, a score, are known");
        return Err(config.wrong("id2label", expected));
    }
    let newer = config.object("sentence_transformers")?;
    let newer = newer.map(|fields| fields.text("activation_fn")).transpose()?.flatten();
    let older = config.text("sbert_ce_default_activation_function")?;
    match newer.or(older).map(|name| name.rsplit('.').next().unwrap_or(name)) {
        None | Some("Sigmoid") => Ok(ScoreActivation::Sigmoid),
        Some("Identity") => Ok(ScoreActivation::Identity),
        Some(_) => {
            let expected = "the activations that are known are Sigmoid and Identity";
            Err(config.wrong("sbert_ce_default_activation_function", expected))
        }
    }
}
