//! A line through what was measured, by recursive least squares: each measurement corrects the
//! weights by as much as they were uncertain in its direction, and old ones fade.

/// Weights of `N` numbers.
#[derive(Clone, Debug)]
pub(super) struct Fit<const N: usize> {
    weights: [f64; N],
    /// How uncertain they are.
    spread: [[f64; N]; N],
    /// Measurements so far.
    count: u32,
    /// Mean of how far the line was off.
    error: f64,
}

/// What a measurement is worth after each further one: after 700 it counts half.
const FADE: f64 = 0.999;
/// Uncertainty at the beginning, and the most there is: without a bound a direction that is never
/// measured would become arbitrarily uncertain as the rest fades, and then jump.
const WIDE: f64 = 1e3;
/// Measurements before the line is believed.
const ENOUGH: u32 = 16;
/// One that is off by more than so many mean errors counts as if it were off by that.
const OUTLIER: f64 = 6.0;

// === impl Fit ===

impl<const N: usize> Default for Fit<N> {
    fn default() -> Self {
        let mut spread = [[0.0; N]; N];
        for (at, row) in spread.iter_mut().enumerate() {
            row[at] = WIDE;
        }
        Self { weights: [0.0; N], spread, count: 0, error: 0.0 }
    }
}

impl<const N: usize> Fit<N> {
    /// What the line says; `None` while it is not believed.
    pub(super) fn at(&self, numbers: &[f64; N]) -> Option<f64> {
        (self.count >= ENOUGH).then(|| dot(&self.weights, numbers).max(0.0))
    }

    /// Takes a measurement; one that is no number is not taken.
    pub(super) fn learn(&mut self, numbers: &[f64; N], measured: f64) {
        if !measured.is_finite() || numbers.iter().any(|number| !number.is_finite()) {
            return;
        }
        let mut toward = [0.0; N];
        for (out, row) in toward.iter_mut().zip(&self.spread) {
            *out = dot(row, numbers);
        }
        let scale = FADE + dot(&toward, numbers);
        let mut off = measured - dot(&self.weights, numbers);
        if self.count >= ENOUGH {
            let most = OUTLIER * self.error.max(1e-4);
            off = off.clamp(-most, most);
        }
        for (weight, toward) in self.weights.iter_mut().zip(&toward) {
            *weight += toward / scale * off;
        }
        for (row, a) in self.spread.iter_mut().zip(&toward) {
            for (cell, b) in row.iter_mut().zip(&toward) {
                *cell = (*cell - a * b / scale) / FADE;
            }
        }
        let widest = (0..N).map(|at| self.spread[at][at]).fold(0.0, f64::max);
        if widest > WIDE {
            let shrink = WIDE / widest;
            self.spread.iter_mut().flatten().for_each(|cell| *cell *= shrink);
        }
        self.count = self.count.saturating_add(1);
        let share = (1.0 / f64::from(self.count)).max(0.05);
        self.error += share * (off.abs() - self.error);
    }
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: u32) -> [f64; 3] {
        [1.0, f64::from(n % 7), f64::from(n % 11)]
    }

    fn line(numbers: &[f64; 3]) -> f64 {
        0.02 + 0.1 * numbers[1] + 0.03 * numbers[2]
    }

    #[test]
    fn a_line_is_found_and_not_believed_before() {
        let mut fit = Fit::default();
        for n in 0..ENOUGH {
            assert_eq!(fit.at(&numbers(n)), None);
            fit.learn(&numbers(n), line(&numbers(n)));
        }
        for n in 0..50 {
            let (found, meant) = (fit.at(&numbers(n)).expect("it is believed"), line(&numbers(n)));
            assert!((found - meant).abs() < 0.005, "{found} {meant}");
        }
    }

    #[test]
    fn it_follows_what_changes_and_not_what_happens_once() {
        let mut fit = Fit::default();
        for n in 0..200 {
            fit.learn(&numbers(n), line(&numbers(n)));
        }
        fit.learn(&numbers(3), 1000.0);
        let after = fit.at(&numbers(3)).expect("it is believed");
        assert!((after - line(&numbers(3))).abs() < 0.05, "one that is far off: {after}");
        for n in 0..4000 {
            fit.learn(&numbers(n), 2.0 * line(&numbers(n)));
        }
        let twice = fit.at(&numbers(3)).expect("it is believed");
        assert!((twice / line(&numbers(3)) - 2.0).abs() < 0.1, "{twice}");
    }

    #[test]
    fn what_never_varies_does_not_blow_it_up() {
        let mut fit = Fit::<3>::default();
        for _ in 0..100_000 {
            fit.learn(&[1.0, 0.0, 0.0], 0.1);
        }
        fit.learn(&[1.0, 5.0, 0.0], f64::NAN);
        let far = fit.at(&[1.0, 1.0, 1.0]).expect("it is believed");
        assert!(far.is_finite() && far < 1.0, "{far}");
    }
}
