//! Chance without randomness: what falls depends on the request and on which throw it is, so that
//! the same request in the same state is placed the same way, and a replay shows what happened.

use troupe_runtime::id::RequestId;

/// Throws of one request.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    seed: u64,
    throws: u64,
}

// === impl Dice ===

impl Dice {
    /// For one request at one plug-in, which `salt` names.
    pub(crate) fn new(request: RequestId, salt: u64) -> Self {
        let (high, low) = request.0.as_u64_pair();
        Self { seed: mix(high ^ mix(low ^ mix(salt))), throws: 0 }
    }

    /// Any number.
    pub(crate) fn throw(&mut self) -> u64 {
        self.throws += 1;
        mix(self.seed.wrapping_add(self.throws.wrapping_mul(STEP)))
    }

    /// Below `sides`; 0 if there are none.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        // By multiplication: no side is likelier than another by more than 2^-64 of all.
        ((u128::from(self.throw()) * sides as u128) >> 64) as usize
    }

    /// From 0, excluded, to 1, included.
    pub(crate) fn share(&mut self) -> f64 {
        ((self.throw() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's last part: every bit of the input changes half of the bits of the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: u128) -> RequestId {
        RequestId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn the_same_request_throws_the_same_and_others_do_not() {
        let throws = |n, salt| {
            let mut dice = Dice::new(request(n), salt);
            (0..8).map(|_| dice.throw()).collect::<Vec<_>>()
        };
        assert_eq!(throws(7, 1), throws(7, 1));
        assert_ne!(throws(7, 1), throws(8, 1));
        assert_ne!(throws(7, 1), throws(7, 2));
    }

    #[test]
    fn every_side_falls_about_as_often_as_the_others() {
        let mut counts = [0_u32; 5];
        for n in 0..10_000 {
            counts[Dice::new(request(n), 0).below(5)] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
        assert_eq!(Dice::new(request(1), 0).below(0), 0);
    }
}
