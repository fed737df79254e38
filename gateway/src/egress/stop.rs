//! Stop strings: text goes in as it is decoded, and comes out only when it can no longer be part
//! of a stop string.
//!
//! What is held back is exactly the longest end of the text that begins some stop string, not a
//! fixed number of characters: a stream lags only where it must. Because each piece is handled the
//! same way whatever the pieces are, a stream's parts always join to the text of the whole answer.

/// Which texts end an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StopRules {
    /// The texts; none is empty.
    pub(crate) strings: Vec<String>,
    /// Whether the text that ended it is part of the answer.
    pub(crate) include: bool,
    /// Texts that end within so many tokens do not count.
    pub(crate) min_tokens: u32,
}

/// One output's text on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopScanner {
    /// Decoded, but maybe the beginning of a stop string.
    held: String,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Safe to show.
    pub(crate) text: String,
    /// Index of the stop string that was found; nothing after it is shown.
    pub(crate) stop: Option<usize>,
}

impl StopScanner {
    /// Takes the text that the output's `count`-th token (from 1) added.
    pub(crate) fn push(&mut self, rules: &StopRules, piece: &str, count: u32) -> Scanned {
        if rules.strings.is_empty() {
            return Scanned { text: piece.to_owned(), stop: None };
        }
        self.held.push_str(piece);
        if count <= rules.min_tokens {
            // Too early to stop: what was decoded so far cannot take part in a later match either.
            return Scanned { text: std::mem::take(&mut self.held), stop: None };
        }
        if let Some((start, index)) = earliest(&self.held, &rules.strings) {
            let end = if rules.include { start + rules.strings[index].len() } else { start };
            self.held.truncate(end);
            return Scanned { text: std::mem::take(&mut self.held), stop: Some(index) };
        }
        let keep = beginning_of_a_stop(&self.held, &rules.strings);
        let rest = self.held.split_off(self.held.len() - keep);
        Scanned { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// The output ended for another reason: what was held back was no stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The match that begins first; of those, the one named first.
fn earliest(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    let found = stops.iter().enumerate();
    found.filter_map(|(index, stop)| Some((text.find(stop.as_str())?, index))).min()
}

/// Bytes of the longest end of `text` that begins a stop string without being all of it.
fn beginning_of_a_stop(text: &str, stops: &[String]) -> usize {
    let longest = stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
    let first = text.len().saturating_sub(longest);
    let starts = text.char_indices().map(|(start, _)| start).filter(|start| *start >= first);
    let mut candidates = starts.map(|start| &text[start..]);
    let held = candidates.find(|end| stops.iter().any(|stop| stop.starts_with(end)));
    held.map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(rules: &StopRules, pieces: &[&str]) -> (String, Option<usize>, Vec<String>) {
        let mut scanner = StopScanner::default();
        let (mut text, mut shown) = (String::new(), Vec::new());
        for (count, piece) in (1..).zip(pieces) {
            let scanned = scanner.push(rules, piece, count);
            text.push_str(&scanned.text);
            shown.push(scanned.text);
            if scanned.stop.is_some() {
                return (text, scanned.stop, shown);
            }
        }
        text.push_str(&scanner.finish());
        (text, None, shown)
    }

    fn rules(strings: &[&str]) -> StopRules {
        let strings = strings.iter().map(|stop| (*stop).to_owned()).collect();
        StopRules { strings, ..StopRules::default() }
    }

    #[test]
    fn no_part_of_a_stop_string_leaks() {
        let (text, stop, shown) = run(&rules(&["END"]), &["a E", "N", "x E", "ND", "b"]);
        assert_eq!((text.as_str(), stop), ("a ENx ", Some(0)));
        assert_eq!(shown, ["a ", "", "ENx ", ""]);
    }

    #[test]
    fn what_was_held_comes_out_at_the_end() {
        let (text, stop, _) = run(&rules(&["END"]), &["a EN"]);
        assert_eq!((text.as_str(), stop), ("a EN", None));
    }

    #[test]
    fn the_stop_string_may_be_shown() {
        let rules = StopRules { include: true, ..rules(&["END"]) };
        assert_eq!(run(&rules, &["a E", "NDb"]).0, "a END");
    }

    #[test]
    fn the_earliest_match_wins() {
        let (text, stop, _) = run(&rules(&["cd", "bcd", "b"]), &["abcd"]);
        assert_eq!((text.as_str(), stop), ("a", Some(1)));
    }

    #[test]
    fn early_matches_do_not_count() {
        let rules = StopRules { min_tokens: 2, ..rules(&["b"]) };
        let (text, stop, _) = run(&rules, &["b", "b", "cb"]);
        assert_eq!((text.as_str(), stop), ("bbc", Some(0)));
    }

    #[test]
    fn characters_are_never_split() {
        let (text, stop, _) = run(&rules(&["é!"]), &["aé", "é", "!"]);
        assert_eq!((text.as_str(), stop), ("aé", Some(0)));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,3}", 1..3),
            cuts in prop::collection::vec(0_usize..24, 0..6),
        ) {
            let rules = StopRules { strings: stops.clone(), ..StopRules::default() };
            // Where a whole scan would end the text, one character at a time.
            let mut end = text.len();
            'scan: for (start, c) in text.char_indices() {
                let so_far = &text[..start + c.len_utf8()];
                for stop in &stops {
                    if so_far.ends_with(stop.as_str()) {
                        end = stops.iter().filter(|s| so_far.ends_with(s.as_str()))
                            .map(|s| so_far.len() - s.len()).min().unwrap_or(0);
                        break 'scan;
                    }
                }
            }
            let mut scanner = StopScanner::default();
            let mut shown = String::new();
            let mut stopped = false;
            for (count, c) in (1..).zip(text.chars()) {
                let scanned = scanner.push(&rules, &c.to_string(), count);
                shown.push_str(&scanned.text);
                if scanned.stop.is_some() { stopped = true; break; }
            }
            if !stopped { shown.push_str(&scanner.finish()); }
            prop_assert_eq!(&shown, &text[..end]);

            // Cut anywhere: no shown part ever has to be taken back.
            let mut marks: Vec<usize> = cuts.into_iter()
                .filter(|cut| *cut <= text.len() && text.is_char_boundary(*cut)).collect();
            marks.push(text.len());
            marks.sort_unstable();
            let (mut from, mut scanner, mut all, mut hit) =
                (0, StopScanner::default(), String::new(), false);
            for (count, to) in (1..).zip(marks) {
                let scanned = scanner.push(&rules, &text[from..to], count);
                all.push_str(&scanned.text);
                prop_assert!(text.starts_with(&all));
                from = to;
                if scanned.stop.is_some() { hit = true; break; }
            }
            if !hit { all.push_str(&scanner.finish()); prop_assert_eq!(&all, &text); }
            for stop in &stops { prop_assert!(!all.contains(stop.as_str())); }
        }
    }
}
