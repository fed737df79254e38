//! What is asked for: conversations, whose turns build on each other, made of pieces.
//!
//! A piece is a seed and a length, so a load of millions of tokens is small, and equal seeds are
//! equal tokens: that is how prompts share their beginnings. What a profile answers is the same for
//! every profile, so all of them see the same prompts.

use std::time::Duration;

/// Everything that is asked for in a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    /// In the order in which they begin.
    pub(crate) conversations: Vec<Conversation>,
    /// So many are under way at a time, whatever their times say; else each begins at its time.
    pub(crate) at_once: Option<usize>,
}

/// One client's requests, each asked for when the one before has been answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conversation {
    /// When it begins.
    pub(crate) at: Duration,
    /// Its requests; there is at least one.
    pub(crate) turns: Vec<Turn>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Between the answer before and this request.
    pub(crate) think: Duration,
    /// What is said after all that was said before.
    pub(crate) pieces: Vec<Piece>,
    /// Tokens of its answer.
    pub(crate) output: u32,
}

/// Tokens that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Says which tokens.
    pub(crate) seed: u64,
    /// How many.
    pub(crate) tokens: u32,
}

/// Tokens that the played model knows.
pub(super) const VOCABULARY: u32 = 1 << 17;

impl Load {
    /// How many requests that is.
    pub(crate) fn requests(&self) -> usize {
        self.conversations.iter().map(|conversation| conversation.turns.len()).sum()
    }
}

impl Piece {
    /// Its tokens.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        (0..self.tokens).map(move |at| token(self.seed, at))
    }
}

/// The token at a position of what a seed stands for.
pub(super) fn token(seed: u64, position: u32) -> u32 {
    let mixed = mix(seed.wrapping_add(u64::from(position).wrapping_mul(STEP)));
    (mixed >> 32) as u32 % VOCABULARY
}

/// SplitMix64's last part (Steele, Lea, Flood 2014): neighbors come out as strangers.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_are_equal_tokens_and_others_are_not() {
        let tokens = |seed, tokens| Piece { seed, tokens }.iter().collect::<Vec<_>>();
        assert_eq!(tokens(7, 100), tokens(7, 200)[..100]);
        let same = tokens(7, 1000).iter().zip(&tokens(8, 1000)).filter(|(a, b)| a == b).count();
        assert!(same < 5, "{same} of 1000 tokens are equal");
        assert!(tokens(9, 1000).iter().all(|token| *token < VOCABULARY));
    }
}
