//! Where a grammar begins in the output of a model that reasons.
//!
//! As in vLLM, reasoning is free and what follows it is held. Where the prompt has not begun it,
//! the output's first token may, and if it does not, the grammar holds from there on: an answer
//! without reasoning is held too. All of it follows from the output alone, so it is the same for a
//! sequence that was preempted, moved or drafted.

use troupe_runtime::wire::generate::Reasoning;

/// The part of an output that a grammar holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Output tokens before it.
    pub(super) from: usize,
    /// A token that may come next whatever the grammar says.
    pub(super) opener: Option<u32>,
}

impl Held {
    /// Of this output; nothing while it reasons.
    pub(super) fn of(output: &[u32], reasoning: Option<&Reasoning>) -> Option<Self> {
        let whole = Self { from: 0, opener: None };
        let Some(Reasoning { open, close, inside }) = reasoning else { return Some(whole) };
        if !inside && output.first() != Some(open) {
            return Some(Self { opener: output.is_empty().then_some(*open), ..whole });
        }
        let end = output.iter().position(|token| token == close)?;
        Some(Self { from: end + 1, opener: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u32 = 7;
    const CLOSE: u32 = 8;

    #[test]
    fn what_is_held_follows_from_the_output() {
        let held = |from: usize, opener: Option<u32>| Some(Held { from, opener });
        let ahead = Reasoning { open: OPEN, close: CLOSE, inside: false };
        let inside = Reasoning { inside: true, ..ahead };
        let cases: [(Option<&Reasoning>, &[u32], Option<Held>); 12] = [
            (None, &[], held(0, None)),
            (None, &[OPEN, CLOSE], held(0, None)),
            (Some(&ahead), &[], held(0, Some(OPEN))),
            (Some(&ahead), &[1], held(0, None)),
            (Some(&ahead), &[1, OPEN, 2], held(0, None)),
            (Some(&ahead), &[OPEN], None),
            (Some(&ahead), &[OPEN, 1, OPEN], None),
            (Some(&ahead), &[OPEN, 1, CLOSE], held(3, None)),
            (Some(&ahead), &[OPEN, CLOSE, 1, CLOSE], held(2, None)),
            (Some(&inside), &[], None),
            (Some(&inside), &[OPEN, 1], None),
            (Some(&inside), &[1, CLOSE, 2], held(2, None)),
        ];
        for (reasoning, output, wanted) in cases {
            assert_eq!(Held::of(output, reasoning), wanted, "{reasoning:?} {output:?}");
        }
    }
}
