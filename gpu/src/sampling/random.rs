//! Random numbers that are looked up, not drawn in turn: the same (seed, choice, position) gives
//! the same number on every machine, in every batch, after every restart.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", 2011): ten rounds of a keyed bijection of a 128-bit counter, made for this use, a
//! few lines in integer arithmetic only, the same on a GPU, with published test vectors. A keyed
//! hash would serve too but costs more per number and has no advantage here, since the seed is no
//! secret.

/// A number uniform over all 64-bit values, for output position `position` of choice `choice`.
///
/// Only one number is ever used per position; a second use would take another value of the
/// counter's last word, which is zero here.
pub(super) fn uniform(seed: u64, choice: u32, position: u64) -> u64 {
    let counter = [low(position), high(position), choice, 0];
    let words = philox4x32_10(counter, [low(seed), high(seed)]);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            high(second) ^ counter[1] ^ key[0],
            low(second),
            high(first) ^ counter[3] ^ key[1],
            low(first),
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const ROUNDS: u32 = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Golden ratio and square root of three minus one, as fractions of 2^32.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that its authors publish with the Random123 library.
    #[test]
    fn philox_gives_its_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected, "counter {counter:x?}");
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = uniform(7, 0, 0);
        assert_eq!(uniform(7, 0, 0), base);
        let others = [uniform(8, 0, 0), uniform(7 + (1 << 32), 0, 0), uniform(7, 1, 0)];
        assert!(others.iter().all(|&other| other != base));
        assert!(uniform(7, 0, 1) != base && uniform(7, 0, 1 << 32) != base);
    }
}
