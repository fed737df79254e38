//! Drafts without a draft model: what followed the last time that these tokens were seen.
//!
//! The sequence's last few tokens are looked for earlier in its own prompt and output, the longest
//! possible run of them, at its latest place; what stood behind it there is the draft. It is right
//! where a text repeats itself: code, quotations, summaries. A draft never changes an answer (see
//! `worker/verify.rs`), only how many steps it takes.
//!
//! Every run is noted as tokens arrive, so that a draft is a few looks and no walk over the text. A
//! place is noted by its shortest run; a longer one is noted too only once the shorter one has been
//! seen twice, for until then there is but one place that could be meant. In plain text that comes
//! to about two entries per token; there are never more than one per token and length of run.

use hashbrown::{HashTable, hash_table::Entry};
use troupe_runtime::wire::Tokens;

/// `--speculative-config` with `method` `ngram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NgramSettings {
    /// Most tokens of a draft.
    pub num_tokens: u32,
    /// Longest run that is looked for.
    pub longest: u32,
    /// Shortest run that is looked for.
    pub shortest: u32,
}

/// Where the runs of a sequence's tokens were seen last.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// For each length of run, from the shortest to the longest, where each run of it ends.
    levels: Vec<HashTable<End>>,
    /// Runs that end here or earlier are noted.
    noted: usize,
}

/// The latest place where a run ends: the index behind its last token.
#[derive(Clone, Copy, Debug)]
struct End {
    at: u32,
    /// Whether the run was seen more than once, and so all longer ones that end with it are noted.
    again: bool,
}

impl Seen {
    /// At most `most` tokens that may follow `tokens`, which are those of the last call and more.
    pub fn draft(&mut self, tokens: &[u32], settings: NgramSettings, most: u32) -> Tokens {
        let most = settings.num_tokens.min(most) as usize;
        if most == 0 {
            return Tokens::new();
        }
        let shortest = settings.shortest.max(1) as usize;
        self.levels.resize_with(
            (settings.longest as usize + 1).saturating_sub(shortest),
            Default::default,
        );
        // The run at the very end is the one that is looked for: it is noted when more follows.
        while self.noted + 1 < tokens.len() {
            self.noted += 1;
            self.note(tokens, shortest, self.noted);
        }
        let mut found = None;
        for (length, level) in (shortest..).zip(&self.levels) {
            let Some(run) = run(tokens, tokens.len(), length) else { break };
            let same = |end: &End| end.run(tokens, length) == Some(run);
            // Longer runs have been seen at some of the places of this one, or at none.
            let Some(end) = level.find(hash(run), same) else { break };
            found = Some(end.at as usize);
        }
        let behind = found.and_then(|end| tokens.get(end..)).unwrap_or_default();
        behind.iter().take(most).copied().collect()
    }

    /// Notes the runs that end at `end`, which is the latest end of any.
    fn note(&mut self, tokens: &[u32], shortest: usize, end: usize) {
        // A place is below the model's context, which is a u32.
        let at = end as u32;
        for (level, length) in (shortest..).enumerate().take(self.levels.len()) {
            let Some(own) = run(tokens, end, length) else { return };
            let rehash = |end: &End| end.run(tokens, length).map_or(0, hash);
            let same = |end: &End| end.run(tokens, length) == Some(own);
            let earlier = match self.levels[level].entry(hash(own), same, rehash) {
                Entry::Vacant(vacant) => {
                    vacant.insert(End { at, again: false });
                    return;
                }
                Entry::Occupied(mut occupied) => {
                    std::mem::replace(occupied.get_mut(), End { at, again: true })
                }
            };
            // Now that there are two places, the earlier one's longer run tells them apart.
            let longer = length + 1;
            if !earlier.again
                && let Some(next) = self.levels.get_mut(level + 1)
                && let Some(run) = earlier.run(tokens, longer)
            {
                let rehash = |end: &End| end.run(tokens, longer).map_or(0, hash);
                next.insert_unique(hash(run), End { again: false, ..earlier }, rehash);
            }
        }
    }
}

impl End {
    fn run(self, tokens: &[u32], length: usize) -> Option<&[u32]> {
        run(tokens, self.at as usize, length)
    }
}

/// The `length` tokens before `end`.
fn run(tokens: &[u32], end: usize, length: usize) -> Option<&[u32]> {
    tokens.get(end.checked_sub(length)?..end)
}

/// The same everywhere: nothing here may depend on chance, and equal hashes only cost time.
fn hash(run: &[u32]) -> u64 {
    run.iter().fold(0, |hash: u64, token| {
        let mixed = (hash ^ u64::from(*token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: NgramSettings = NgramSettings { num_tokens: 3, longest: 3, shortest: 2 };

    fn draft(tokens: &[u32], settings: NgramSettings, most: u32) -> Vec<u32> {
        Seen::default().draft(tokens, settings, most).to_vec()
    }

    /// The same by looking at every place anew.
    fn searched(tokens: &[u32], settings: NgramSettings, most: u32) -> Vec<u32> {
        let agreement = |end: &usize| {
            let pairs = tokens[..*end].iter().rev().zip(tokens.iter().rev());
            pairs.take(settings.longest as usize).take_while(|(a, b)| a == b).count()
        };
        let places = 1..tokens.len().max(1);
        let Some(end) = places.max_by_key(|end| (agreement(end), *end)) else { return vec![] };
        let enough = agreement(&end) >= settings.shortest as usize;
        let most = if enough { settings.num_tokens.min(most) } else { 0 };
        tokens[end..].iter().take(most as usize).copied().collect()
    }

    #[test]
    fn the_longest_run_at_its_latest_place_gives_the_draft() {
        assert_eq!(draft(&[1, 2, 3, 9, 8, 7, 1, 2, 3], SETTINGS, 9), [9, 8, 7]);
        assert_eq!(draft(&[1, 2, 5, 1, 2, 6, 0, 1, 2], SETTINGS, 9), [6, 0, 1]);
        assert_eq!(draft(&[4, 1, 2, 5, 3, 1, 2, 6, 4, 1, 2], SETTINGS, 9), [5, 3, 1]);
        assert_eq!(draft(&[4, 1, 2, 5, 3, 1, 2, 6, 4, 1, 2], SETTINGS, 1), [5]);
    }

    #[test]
    fn a_run_that_is_too_short_gives_none() {
        assert!(draft(&[1, 2, 3, 4, 2], SETTINGS, 9).is_empty());
        assert!(draft(&[], SETTINGS, 9).is_empty() && draft(&[1], SETTINGS, 9).is_empty());
        assert!(draft(&[1, 2, 1, 2], SETTINGS, 0).is_empty());
    }

    #[test]
    fn a_repetition_may_reach_into_the_run_itself() {
        assert_eq!(draft(&[7, 7, 7], SETTINGS, 9), [7]);
    }

    proptest! {
        #[test]
        fn drafts_are_those_of_a_search_and_memory_is_bounded(
            tokens in (1..6_u32).prop_flat_map(|kinds| prop::collection::vec(0..kinds, 0..200)),
            arrivals in prop::collection::vec(1..20_usize, 1..200),
            shortest in 1..4_u32,
            more in 0..5_u32,
            most in 0..6_u32,
        ) {
            let settings = NgramSettings { num_tokens: 4, longest: shortest + more, shortest };
            let mut seen = Seen::default();
            let mut end = 0;
            for arrived in arrivals {
                end = (end + arrived).min(tokens.len());
                let known = &tokens[..end];
                let drafted = seen.draft(known, settings, most).to_vec();
                prop_assert_eq!(drafted, searched(known, settings, most), "of {:?}", known);
                prop_assert!(seen.levels.iter().all(|level| level.len() <= end));
            }
        }
    }
}
