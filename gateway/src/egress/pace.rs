//! How often a stream speaks: what a client asked to have in fewer, larger events is gathered.
//!
//! The first and the last part of a choice never wait, so that neither the first token nor the end
//! comes later than it would otherwise.

use super::stream::Delta;

/// What waits to be told, per choice of the answer.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Tokens that make an event.
    interval: usize,
    choices: Vec<Gathered>,
}

#[derive(Clone, Debug, Default)]
struct Gathered {
    begun: bool,
    held: Option<Delta>,
}

impl Pace {
    /// At least `interval` tokens per event; 1 tells everything at once.
    pub(crate) fn new(interval: u32, choices: usize) -> Self {
        Self { interval: interval as usize, choices: vec![Gathered::default(); choices] }
    }

    /// What is to be told now that this was added to a choice.
    pub(crate) fn push(&mut self, index: u32, delta: Delta) -> Option<Delta> {
        let choice = &mut self.choices[index as usize];
        let first = !std::mem::replace(&mut choice.begun, true);
        let all = match choice.held.take() {
            None => delta,
            Some(mut held) => {
                held.append(delta);
                held
            }
        };
        if first || all.end.is_some() || all.tokens.len() >= self.interval {
            return Some(all);
        }
        choice.held = Some(all);
        None
    }

    /// What still waits, because the stream breaks off.
    pub(crate) fn rest(&mut self) -> Vec<(u32, Delta)> {
        let choices = (0..).zip(&mut self.choices);
        choices.filter_map(|(index, choice)| Some((index, choice.held.take()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::generate::{FinishReason, Usage};

    use super::*;
    use crate::egress::stream::End;

    fn delta(text: &str) -> Delta {
        Delta { text: text.into(), tokens: vec![1; text.len()], ..Delta::default() }
    }

    fn told(pace: &mut Pace, index: u32, text: &str) -> Option<String> {
        pace.push(index, delta(text)).map(|delta| delta.text)
    }

    #[test]
    fn between_first_and_last_events_have_their_size() {
        let mut pace = Pace::new(3, 2);
        assert_eq!(told(&mut pace, 0, "a").as_deref(), Some("a"));
        assert_eq!(told(&mut pace, 0, "b"), None);
        assert_eq!(told(&mut pace, 1, "x").as_deref(), Some("x"), "each choice has its own");
        assert_eq!(told(&mut pace, 0, "cd").as_deref(), Some("bcd"));
        assert_eq!(told(&mut pace, 0, "e"), None);
        let end = End { reason: FinishReason::Stop, stop_reason: None, usage: Usage::default() };
        let last = pace.push(0, Delta { end: Some(end), ..delta("f") }).expect("the end");
        assert_eq!((last.text.as_str(), last.tokens.len()), ("ef", 2));
        assert!(last.end.is_some() && pace.rest().is_empty());
    }

    #[test]
    fn nothing_waits_at_an_interval_of_one_and_nothing_is_lost() {
        let mut pace = Pace::new(1, 1);
        for text in ["a", "b", "c"] {
            assert_eq!(told(&mut pace, 0, text).as_deref(), Some(text));
        }
        let mut pace = Pace::new(9, 2);
        pace.push(1, delta("a"));
        pace.push(1, delta("b"));
        let rest: Vec<(u32, String)> = pace.rest().into_iter().map(|(i, d)| (i, d.text)).collect();
        assert_eq!(rest, [(1, "b".to_owned())]);
    }
}
