//! Drafts without a draft model: what followed the last time that these tokens were seen.
//!
//! The sequence's last few tokens are looked for earlier in its own prompt and output, the longest
//! possible run of them, at its latest place; what stood behind it there is the draft. It costs a
//! walk over the tokens and is right where a text repeats itself: code, quotations, summaries.
//! A draft never changes an answer (see `worker/mirror.rs`), only how many steps it takes.

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

/// At most `most` tokens that may follow `tokens`.
pub fn draft(tokens: &[u32], settings: NgramSettings, most: u32) -> Vec<u32> {
    let most = settings.num_tokens.min(most) as usize;
    let last = tokens.len().saturating_sub(1);
    if most == 0 {
        return Vec::new();
    }
    // For every earlier end of a run: how long it agrees with the end of the sequence.
    let longest = settings.longest as usize;
    let mut best = (0, 0);
    for end in (1..=last).rev() {
        let run = tokens[..end].iter().rev().zip(tokens.iter().rev()).take(longest);
        let length = run.take_while(|(earlier, own)| earlier == own).count();
        if length > best.0 {
            best = (length, end);
        }
        if length == longest {
            break;
        }
    }
    let (length, end) = best;
    if length == 0 || length < settings.shortest as usize {
        return Vec::new();
    }
    tokens[end..].iter().take(most).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: NgramSettings = NgramSettings { num_tokens: 3, longest: 3, shortest: 2 };

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
}
