//! Conversations by numbers: system prompts that many share, turns that build on each other, and a
//! Poisson process of those who begin one.
//!
//! Lengths are drawn evenly from half of what was asked for to one and a half times as much, and
//! times of thinking exponentially, because what is all alike keeps step by accident.

use std::time::Duration;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::load::{Conversation, Load, Piece, Turn};

/// The numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Synthetic {
    pub(crate) conversations: u32,
    /// Requests of each.
    pub(crate) turns: u32,
    /// Different beginnings; every conversation has one of them, none is likelier than another.
    pub(crate) system_prompts: u32,
    /// Tokens of each beginning.
    pub(crate) system_tokens: u32,
    /// Tokens that a turn adds, on average.
    pub(crate) turn_tokens: u32,
    /// Tokens of an answer, on average.
    pub(crate) output_tokens: u32,
    pub(crate) arrivals: Arrivals,
    /// Between an answer and the next turn, on average.
    pub(crate) think: Duration,
}

/// When conversations begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrivals {
    /// So many are under way at a time.
    AtOnce(u32),
    /// So many begin in a second, by chance.
    Rate(f64),
}

/// Chance, the same for the same seed.
struct Chance(ChaCha8Rng);

// === impl Synthetic ===

impl Synthetic {
    /// Draws all of it.
    pub(crate) fn load(&self, seed: u64) -> Load {
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
        let systems: Vec<u64> = (0..self.system_prompts).map(|_| chance.number()).collect();
        let mut at = Duration::ZERO;
        let conversations = (0..self.conversations).map(|_| {
            if let Arrivals::Rate(rate) = self.arrivals {
                at += Duration::from_secs_f64(chance.waiting(1.0 / rate));
            }
            let system = systems.get(chance.below(self.system_prompts) as usize).copied();
            Conversation { at, turns: self.turns(system, &mut chance) }
        });
        let conversations = conversations.collect();
        let at_once = match self.arrivals {
            Arrivals::AtOnce(count) => Some(count as usize),
            Arrivals::Rate(_) => None,
        };
        Load { conversations, at_once }
    }

    fn turns(&self, system: Option<u64>, chance: &mut Chance) -> Vec<Turn> {
        let mut begin = system.map(|seed| Piece { seed, tokens: self.system_tokens });
        let turn = |_| {
            let said = Piece { seed: chance.number(), tokens: chance.around(self.turn_tokens) };
            let pieces = begin.take().into_iter().chain([said]).collect();
            let think = Duration::from_secs_f64(chance.waiting(self.think.as_secs_f64()));
            Turn { think, pieces, output: chance.around(self.output_tokens) }
        };
        (0..self.turns).map(turn).collect()
    }
}

// === impl Chance ===

impl Chance {
    fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `limit`; 0 if there is nothing.
    fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.number()) * u128::from(limit)) >> 64) as u32
    }

    /// From half of it to one and a half times as much, at least 1.
    fn around(&mut self, mean: u32) -> u32 {
        (mean / 2 + self.below(mean.saturating_add(1))).max(1)
    }

    /// How long it takes until something happens that takes so long on average, in seconds.
    fn waiting(&mut self, mean: f64) -> f64 {
        let share = ((self.number() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -share.ln() * mean
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const SMALL: Synthetic = Synthetic {
        conversations: 40,
        turns: 3,
        system_prompts: 8,
        system_tokens: 512,
        turn_tokens: 64,
        output_tokens: 24,
        arrivals: Arrivals::Rate(8.0),
        think: Duration::from_secs(1),
    };

    #[test]
    fn it_is_what_the_numbers_say() {
        let many = Synthetic { conversations: 2000, ..SMALL };
        let load = many.load(3);
        assert_eq!((load.requests(), load.at_once), (6000, None));
        assert!(load.conversations.is_sorted_by_key(|one| one.at));
        let last = load.conversations.last().map_or(0.0, |one| one.at.as_secs_f64());
        assert!((last - 250.0).abs() < 25.0, "2000 at 8 in a second take {last} s");
        let turns: Vec<&Turn> = load.conversations.iter().flat_map(|one| &one.turns).collect();
        let mean = |of: fn(&Turn) -> f64| {
            turns.iter().map(|turn| of(turn)).sum::<f64>() / turns.len() as f64
        };
        let output = mean(|turn| f64::from(turn.output));
        let think = mean(|turn| turn.think.as_secs_f64());
        assert!((output - 24.0).abs() < 1.0 && (think - 1.0).abs() < 0.1, "{output} {think}");
        let begins = load.conversations.iter().map(|one| one.turns[0].pieces[0].seed);
        let begins: std::collections::BTreeSet<u64> = begins.collect();
        assert_eq!(begins.len(), 8);
        assert!(turns.iter().all(|turn| (1..=2).contains(&turn.pieces.len())));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        assert_eq!(SMALL.load(1), SMALL.load(1));
        assert_ne!(SMALL.load(1), SMALL.load(2));
        let at_once = Synthetic { arrivals: Arrivals::AtOnce(4), ..SMALL }.load(1);
        assert_eq!(at_once.at_once, Some(4));
        assert!(at_once.conversations.iter().all(|one| one.at == Duration::ZERO));
    }
}
