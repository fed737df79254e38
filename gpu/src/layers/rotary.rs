//! Rotary position embedding: from a model's base and scaling to one frequency per pair of
//! elements.
//!
//! Frequencies are computed in `f64` and rounded to `f32` once.

use std::f64::consts::TAU;

use troupe_runtime::model::config::{ModelConfig, Rope, RopeScaling};

use crate::{
    backend::{Backend, RopeSpec},
    error::DeviceError,
};

/// A model's rotary tables.
#[derive(Debug)]
pub struct Rotary<B: Backend> {
    tables: B::Rope,
    /// Those of layers that look back over a window, if they are others.
    windowed: Option<B::Rope>,
}

impl<B: Backend> Rotary<B> {
    /// Tables for positions below `positions`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn new(
        backend: &mut B,
        config: &ModelConfig,
        positions: usize,
    ) -> Result<Self, DeviceError> {
        let mut prepare = |rope: &Rope| {
            let inverse_frequencies = inverse_frequencies(rope, config.rotary_dim);
            let attention_factor = match &rope.scaling {
                RopeScaling::Yarn { attention_factor, .. }
                | RopeScaling::PerPair { attention_factor, .. } => *attention_factor as f32,
                RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
            };
            let inverse_frequencies = &inverse_frequencies;
            backend.prepare_rope(&RopeSpec { inverse_frequencies, attention_factor, positions })
        };
        let tables = prepare(&config.rope)?;
        Ok(Self { tables, windowed: config.window_rope.as_ref().map(prepare).transpose()? })
    }

    /// As the backend has them, for a layer that looks back over a window or over everything.
    pub fn tables(&self, windowed: bool) -> &B::Rope {
        self.windowed.as_ref().filter(|_| windowed).unwrap_or(&self.tables)
    }
}

/// Radians per position for each pair of the `dim` rotated elements of a head.
pub fn inverse_frequencies(rope: &Rope, dim: usize) -> Vec<f32> {
    let base = |pair: usize| rope.theta.powf(-((2 * pair) as f64) / dim as f64);
    let kept = kept(rope, dim);
    (0..dim / 2).map(|pair| scaled(&rope.scaling, base(pair), &kept, pair) as f32).collect()
}

/// How much of each pair's frequency YaRN keeps, by the pair's number.
fn kept(rope: &Rope, dim: usize) -> impl Fn(usize) -> f64 {
    let (mut low, mut high) = (0.0, 0.0);
    if let RopeScaling::Yarn { beta_fast, beta_slow, truncate, original_max_position, .. } =
        &rope.scaling
    {
        // The pair that turns so often within the context that the model was first trained with.
        let pair = |turns: f64| {
            let positions = *original_max_position as f64;
            dim as f64 * (positions / (turns * TAU)).ln() / (2.0 * rope.theta.ln())
        };
        (low, high) = (pair(*beta_fast), pair(*beta_slow));
        if *truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
        if low == high {
            high += 0.001;
        }
    }
    move |pair| 1.0 - ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0)
}

fn scaled(scaling: &RopeScaling, frequency: f64, kept: &impl Fn(usize) -> f64, pair: usize) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position,
        } => {
            // How often the pair turns within the context that the model was first trained with.
            let turns = *original_max_position as f64 * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = kept.clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
        }
        RopeScaling::Yarn { factor, .. } => {
            let kept = kept(pair);
            frequency * (kept + (1.0 - kept) / factor)
        }
        // As many as there are pairs, which the config has seen to.
        RopeScaling::PerPair { factors, .. } => {
            factors.get(pair).map_or(frequency, |factor| frequency / factor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_to_the_base() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
        assert_eq!(inverse_frequencies(&rope, 8), [1.0, 0.1, 0.01, 0.001]);
        let rope = Rope { scaling: RopeScaling::Linear { factor: 4.0 }, ..rope };
        assert_eq!(inverse_frequencies(&rope, 4), [0.25, 0.0025]);
    }

    #[test]
    fn llama3_scaling_keeps_fast_pairs_and_slows_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 64,
        };
        let fast = TAU / 64.0 * 5.0;
        let slow = TAU / 64.0 * 0.5;
        let between = TAU / 64.0 * 2.5;
        let scaled = |frequency| scaled(&scaling, frequency, &|_| 0.0, 0);
        assert_eq!(scaled(fast), fast);
        assert!((scaled(slow) - slow / 8.0).abs() < 1e-15);
        assert!((scaled(between) - between * (0.5 + 0.5 / 8.0)).abs() < 1e-15);
    }

    #[test]
    fn yarn_keeps_pairs_that_turn_often_and_slows_those_that_turn_seldom() {
        let scaling = RopeScaling::Yarn {
            factor: 8.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: 1.0,
            original_max_position: 4096,
        };
        let plain = Rope { theta: 10_000.0, scaling: RopeScaling::None };
        let (plain, found) =
            (inverse_frequencies(&plain, 64), inverse_frequencies(&Rope { scaling, ..plain }, 64));
        // The ramp goes from the pair that turns 32 times, 10.47, to the one that turns once, 22.5.
        assert_eq!(found[..=10], plain[..=10]);
        assert!((23..32).all(|pair| (found[pair] / plain[pair] - 0.125).abs() < 1e-6));
        let half = plain[16] * (1.0 - 6.0 / 13.0 + 6.0 / 13.0 / 8.0);
        assert!((found[16] - half).abs() < 1e-7, "{} is not {half}", found[16]);
    }
}
