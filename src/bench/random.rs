//! Numbers that look random and are the same on every machine: splitmix64, a counter, well mixed.
//! (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.)

/// Where they come from.
pub(crate) struct Random(u64);

impl Random {
    /// Another series for every seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From -1 to 1.
    pub(crate) fn around_zero(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// From 0 to 1, both excluded, so that its logarithm is a number.
    fn share(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A whole number below `limit`; 0 if there is none.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// A whole number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Puts a list into a random order.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A normal deviate with mean 0 and deviation 1 (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.share(), self.share());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// A gamma deviate of this shape, above 0, and of mean 1. Shape 1 is the exponential
    /// distribution. (Marsaglia, Tsang: "A simple method for generating gamma variables", 2000.)
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        // Below 1 the method does not work; a power of a uniform deviate leads there from 1 more.
        let raised = if shape < 1.0 { shape + 1.0 } else { shape };
        let d = raised - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        let deviate = loop {
            let normal = self.normal();
            let v = (1.0 + c * normal).powi(3);
            if v > 0.0 && self.share().ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
                break d * v;
            }
        };
        let lowered = if shape < 1.0 { self.share().powf(1.0 / shape) } else { 1.0 };
        deviate * lowered / shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_deviates_have_the_mean_and_deviation_of_their_shape() {
        for shape in [0.25, 1.0, 4.0] {
            let mut random = Random::new(7);
            let count = 100_000;
            let drawn: Vec<f64> = (0..count).map(|_| random.gamma(shape)).collect();
            let mean = drawn.iter().sum::<f64>() / f64::from(count);
            let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(count);
            assert!((mean - 1.0).abs() < 0.03, "shape {shape}: mean {mean}");
            assert!((variance * shape - 1.0).abs() < 0.06, "shape {shape}: variance {variance}");
        }
    }

    #[test]
    fn whole_numbers_reach_both_ends() {
        let mut random = Random::new(0);
        let drawn: std::collections::BTreeSet<u64> =
            (0..1000).map(|_| random.between(3, 6)).collect();
        assert_eq!(drawn, [3, 4, 5, 6].into());
        assert_eq!(random.between(5, 5), 5);
    }
}
