//! Rotary position embedding: base and scaling, from both config styles.
//!
//! Classic: `rope_theta` beside `rope_scaling {rope_type or type, ...}`. Transformers 5:
//! `rope_parameters {rope_type, rope_theta, ...}`. A type that is not implemented is an error,
//! because a model run with another rope than it was trained with answers fluently and wrongly.

use std::sync::Arc;

use crate::model::{error::ModelError, json::Fields};

/// Rotary position embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// What is done to the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
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
    /// YaRN: pairs that turn seldom divided by `factor`, those that turn often kept, a ramp over
    /// pairs between; sines and cosines grow a little.
    Yarn {
        /// At least 1.
        factor: f64,
        /// From so many turns within the first context on, a pair is kept.
        beta_fast: f64,
        /// Up to so many, it is scaled fully.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        /// What sines and cosines are multiplied by.
        attention_factor: f64,
        /// The context that the model was first trained with.
        original_max_position: usize,
    },
    /// Each frequency divided by a factor of its own; sines and cosines grow a little.
    PerPair {
        /// One for each rotated pair of elements.
        factors: Arc<[f64]>,
        /// What sines and cosines are multiplied by.
        attention_factor: f64,
    },
}

// === impl Rope ===

impl Rope {
    /// Whether it fits heads of which so many elements are rotated.
    pub(super) fn fits(&self, rotary_dim: usize) -> bool {
        match &self.scaling {
            RopeScaling::PerPair { factors, .. } => factors.len() == rotary_dim / 2,
            _ => true,
        }
    }
}

/// Reads the rope of a config in either style.
pub(super) fn parse(config: &Fields<'_>, default_theta: f64) -> Result<Rope, ModelError> {
    let scaling = match config.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.object("rope_scaling")?,
    };
    let nested = scaling.as_ref().map(|fields| fields.number("rope_theta", THETA)).transpose()?;
    let theta = match nested.flatten() {
        Some(theta) => theta,
        None => config.number("rope_theta", THETA)?.unwrap_or(default_theta),
    };
    let scaling =
        scaling.as_ref().map_or(Ok(RopeScaling::None), |fields| parse_scaling(config, fields))?;
    Ok(Rope { theta, scaling })
}

/// Reads the ropes of a model whose windows have one of their own: that of layers that see all,
/// then the windows'. Transformers 5 nests them by the layers' type.
pub(super) fn parse_two(config: &Fields<'_>) -> Result<(Rope, Rope), ModelError> {
    let window = || -> Result<Rope, ModelError> {
        let theta = config.number("rope_local_base_freq", THETA)?.unwrap_or(DEFAULT_THETA);
        Ok(Rope { theta, scaling: RopeScaling::None })
    };
    let Some(parameters) = config.object("rope_parameters")? else {
        return Ok((parse(config, LONG_THETA)?, window()?));
    };
    let one = |name, default_theta| -> Result<Option<Rope>, ModelError> {
        let Some(fields) = parameters.object(name)? else { return Ok(None) };
        let theta = fields.number("rope_theta", THETA)?.unwrap_or(default_theta);
        Ok(Some(Rope { theta, scaling: parse_scaling(config, &fields)? }))
    };
    match (one("full_attention", LONG_THETA)?, one("sliding_attention", DEFAULT_THETA)?) {
        (None, None) => Ok((parse(config, LONG_THETA)?, window()?)),
        (Some(full), Some(window)) => Ok((full, window)),
        _ => {
            let expected = "it must have both `full_attention` and `sliding_attention`";
            Err(config.wrong("rope_parameters", expected))
        }
    }
}

/// The share of each head that is rotated.
pub(super) fn rotated_share(config: &Fields<'_>) -> Result<f64, ModelError> {
    let name = "partial_rotary_factor";
    let nested = match config.object("rope_parameters")? {
        Some(parameters) => parameters.number(name, 0.0..=1.0)?,
        None => None,
    };
    Ok(nested.or(config.number(name, 0.0..=1.0)?).unwrap_or(1.0))
}

/// What scores of latent attention are multiplied by beside the root of the head's size: a model
/// that was stretched by YaRN was trained on with sharper scores.
pub(super) fn score_factor(config: &Fields<'_>) -> Result<f64, ModelError> {
    let fields = match config.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.object("rope_scaling")?,
    };
    let Some(fields) = fields.filter(|fields| is_yarn(fields)) else { return Ok(1.0) };
    let factor = fields.required_number("factor", FACTOR)?;
    let scale = fields.number("mscale_all_dim", MSCALE)?.filter(|scale| *scale > 0.0);
    Ok(scale.map_or(1.0, |scale| growth(factor, scale).powi(2)))
}

fn is_yarn(fields: &Fields<'_>) -> bool {
    ["rope_type", "type"].iter().any(|name| matches!(fields.text(name), Ok(Some("yarn"))))
}

fn parse_scaling(config: &Fields<'_>, fields: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    // `type` is the older name; where both stand, transformers reads the newer.
    let name = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    match fields.text(name)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => {
            Ok(RopeScaling::Linear { factor: fields.required_number("factor", FACTOR)? })
        }
        Some("llama3") => parse_llama3(fields),
        Some("yarn") => parse_yarn(config, fields),
        Some("longrope") => parse_per_pair(config, fields, name),
        Some(_) => Err(fields.wrong(name, UNKNOWN)),
    }
}

/// LongRoPE, as far as a position is rotated alike in every text.
fn parse_per_pair(
    config: &Fields<'_>,
    fields: &Fields<'_>,
    kind: &str,
) -> Result<RopeScaling, ModelError> {
    let factors = |name| fields.numbers(name, FACTOR_OR_LESS);
    let (short, long) = (factors("short_factor")?, factors("long_factor")?);
    let Some(factors) = short.filter(|short| long.as_ref() == Some(short)) else {
        return Err(fields.wrong(kind, UNKNOWN));
    };
    let (name, range) = ("original_max_position_embeddings", 1..=super::parse::MAX_POSITIONS);
    let original = match fields.integer(name, range.clone())? {
        Some(original) => Some(original),
        None => config.integer(name, range.clone())?,
    };
    let attention_factor = match (fields.number("attention_factor", MSCALE)?, original) {
        (Some(written), _) => written,
        (None, Some(original)) => {
            let positions = config.size("max_position_embeddings", range)? as f64;
            let factor = positions / original as f64;
            if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
        }
        (None, None) => 1.0,
    };
    Ok(RopeScaling::PerPair { factors: factors.into(), attention_factor })
}

fn parse_yarn(config: &Fields<'_>, fields: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    let factor = fields.required_number("factor", FACTOR)?;
    let scales = ["mscale", "mscale_all_dim"].map(|name| fields.number(name, MSCALE));
    let [scale, scale_all] = scales;
    let attention_factor = match fields.number("attention_factor", MSCALE)? {
        Some(written) => written,
        None => match (scale?.filter(|s| *s > 0.0), scale_all?.filter(|s| *s > 0.0)) {
            (Some(scale), Some(all)) => growth(factor, scale) / growth(factor, all),
            _ => growth(factor, 1.0),
        },
    };
    let (name, range) = ("original_max_position_embeddings", 1..=super::parse::MAX_POSITIONS);
    let original_max_position = match fields.integer(name, range.clone())? {
        Some(positions) => positions as usize,
        None => config.size("max_position_embeddings", range)?,
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: fields.number("beta_fast", FACTOR_OR_LESS)?.unwrap_or(32.0),
        beta_slow: fields.number("beta_slow", FACTOR_OR_LESS)?.unwrap_or(1.0),
        truncate: fields.flag("truncate")?.unwrap_or(true),
        attention_factor,
        original_max_position,
    })
}

/// How much sharper attention has to be in a context `factor` times as long.
fn growth(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
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

const UNKNOWN: &str = "the types that are known are `default`, `linear`, `llama3`, `yarn`, and \
                       `longrope` with one list of factors; with others (`longrope` with two, \
                       `dynamic`) the same position is rotated differently in a longer text, so \
                       that no computed block could be kept";
/// What transformers takes where a Llama-like config does not say.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;
/// What it takes for families that were made for long texts.
pub(super) const LONG_THETA: f64 = 1_000_000.0;
const MSCALE: std::ops::RangeInclusive<f64> = 0.0..=1e3;
const THETA: std::ops::RangeInclusive<f64> = 1.0..=1e12;
const FACTOR: std::ops::RangeInclusive<f64> = 1.0..=1e6;
const FACTOR_OR_LESS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
