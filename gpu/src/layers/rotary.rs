//! Rotary position embedding: from a model's base and scaling to one frequency per pair of
//! elements.
//!
//! Frequencies are computed in `f64` and rounded to `f32` once.

use std::f64::consts::TAU;

use troupe_runtime::model::config::{Rope, RopeScaling};

use crate::{
    backend::{Backend, RopeSpec},
    error::DeviceError,
};

/// A model's rotary tables.
#[derive(Debug)]
pub struct Rotary<B: Backend> {
    tables: B::Rope,
}

impl<B: Backend> Rotary<B> {
    /// Tables for heads of `head_dim` elements and positions below `positions`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn new(
        backend: &mut B,
        rope: &Rope,
        head_dim: usize,
        positions: usize,
    ) -> Result<Self, DeviceError> {
        let inverse_frequencies = inverse_frequencies(rope, head_dim);
        let spec = RopeSpec {
            inverse_frequencies: &inverse_frequencies,
            attention_factor: 1.0,
            positions,
        };
        Ok(Self { tables: backend.prepare_rope(&spec)? })
    }

    /// As the backend has them.
    pub fn tables(&self) -> &B::Rope {
        &self.tables
    }
}

/// Radians per position for each pair of a head's elements.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let base = |pair: usize| rope.theta.powf(-((2 * pair) as f64) / head_dim as f64);
    (0..head_dim / 2).map(|pair| scaled(rope.scaling, base(pair)) as f32).collect()
}

fn scaled(scaling: RopeScaling, frequency: f64) -> f64 {
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
            let turns = original_max_position as f64 * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = kept.clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
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
        assert_eq!(scaled(scaling, fast), fast);
        assert!((scaled(scaling, slow) - slow / 8.0).abs() < 1e-15);
        assert!((scaled(scaling, between) - between * (0.5 + 0.5 / 8.0)).abs() < 1e-15);
    }
}
