//! Rotary position embedding: base and scaling, from both config styles.
//!
//! Classic: `rope_theta` beside `rope_scaling {rope_type or type, ...}`. Transformers 5:
//! `rope_parameters {rope_type, rope_theta, ...}`. A type that is not implemented is an error,
//! because a model run with another rope than it was trained with answers fluently and wrongly.

use crate::model::{error::ModelError, json::Fields};

/// Rotary position embedding of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// What is done to the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by a factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, smooth between.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths over `original_max_position / low_freq_factor` are scaled fully.
        low_freq_factor: f64,
        /// Wavelengths under `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was first trained with.
        original_max_position: usize,
    },
}

/// Reads the rope of a config in either style.
pub(super) fn parse(config: &Fields<'_>) -> Result<Rope, ModelError> {
    if config.number("partial_rotary_factor", 0.0..=1.0)?.is_some_and(|factor| factor < 1.0) {
        return Err(config.wrong("partial_rotary_factor", "only 1.0, the whole head, is known"));
    }
    let scaling = match config.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.object("rope_scaling")?,
    };
    let nested = scaling.as_ref().map(|fields| fields.number("rope_theta", THETA)).transpose()?;
    let theta = match nested.flatten() {
        Some(theta) => theta,
        None => config.number("rope_theta", THETA)?.unwrap_or(DEFAULT_THETA),
    };
    let scaling = scaling.as_ref().map_or(Ok(RopeScaling::None), parse_scaling)?;
    Ok(Rope { theta, scaling })
}

fn parse_scaling(fields: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    // `type` is the older name; where both stand, transformers reads the newer.
    let name = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    match fields.text(name)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => {
            Ok(RopeScaling::Linear { factor: fields.required_number("factor", FACTOR)? })
        }
        Some("llama3") => parse_llama3(fields),
        Some(_) => {
            Err(fields.wrong(name, "the types that are known are `default`, `linear` and `llama3`"))
        }
    }
}

fn parse_llama3(fields: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    let low_freq_factor = fields.required_number("low_freq_factor", FACTOR_OR_LESS)?;
    let high_freq_factor = fields.required_number("high_freq_factor", FACTOR_OR_LESS)?;
    if high_freq_factor <= low_freq_factor {
        let expected = format!("it must be greater than `low_freq_factor`, {low_freq_factor}");
        return Err(fields.wrong("high_freq_factor", expected));
    }
    Ok(RopeScaling::Llama3 {
        factor: fields.required_number("factor", FACTOR)?,
        low_freq_factor,
        high_freq_factor,
        original_max_position: fields
            .size("original_max_position_embeddings", 1..=super::parse::MAX_POSITIONS)?,
    })
}

/// What transformers takes where a Llama-like config does not say.
const DEFAULT_THETA: f64 = 10_000.0;
const THETA: std::ops::RangeInclusive<f64> = 1.0..=1e12;
const FACTOR: std::ops::RangeInclusive<f64> = 1.0..=1e6;
const FACTOR_OR_LESS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
