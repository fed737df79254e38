//! Reasoning: what stands between two markers at the beginning of an answer.
//!
//! A template may have opened it in the prompt already; then the answer begins inside. Only at the
//! beginning, so that an answer may speak of the markers. White space around both parts is layout
//! and left out. Reasoning that never ends is reasoning.

use super::marker::{Partial, Spaces};

/// Where reasoning begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Markers {
    /// Begins it.
    pub(crate) open: &'static str,
    /// Ends it.
    pub(crate) close: &'static str,
}

/// One answer on its way.
#[derive(Debug)]
pub(super) struct Reasoning {
    markers: Markers,
    at: At,
    spaces: Spaces,
    mark: Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing but white space so far.
    Start,
    /// Nothing but white space of the reasoning so far; it may still be opened once more.
    Opened,
    Inside,
    /// Behind it, and nothing but white space since.
    Closed,
    Content,
}

/// What became of some characters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) reasoning: String,
    pub(super) content: String,
}

impl Reasoning {
    /// `inside` if the prompt has opened it.
    pub(super) fn new(markers: Markers, inside: bool) -> Self {
        let at = if inside { At::Opened } else { At::Start };
        Self { markers, at, spaces: Spaces::default(), mark: Partial::default() }
    }

    pub(super) fn push(&mut self, c: char) -> Split {
        match self.at {
            At::Start => self.start(c),
            At::Opened | At::Inside => Split { reasoning: self.inside(c), ..Split::default() },
            At::Closed if c.is_whitespace() => Split::default(),
            At::Closed | At::Content => {
                self.at = At::Content;
                Split { content: c.into(), ..Split::default() }
            }
        }
    }

    /// The text has ended: what was held back.
    pub(super) fn finish(&mut self) -> Split {
        let held = self.spaces.take() + &self.mark.take();
        match self.at {
            At::Opened | At::Inside => Split { reasoning: held, ..Split::default() },
            At::Start | At::Closed | At::Content => Split { content: held, ..Split::default() },
        }
    }

    fn start(&mut self, c: char) -> Split {
        let mut split = Split::default();
        if c.is_whitespace() && self.mark.text().is_empty() {
            match self.spaces.push(c) {
                None => return split,
                Some(first) => split.content.push(first),
            }
            split.content.push_str(&self.spaces.take());
            self.at = At::Content;
            return split;
        }
        let no_marker = self.mark.push(c, |text| self.markers.open.starts_with(text));
        if !no_marker.is_empty() {
            split.content = self.spaces.take() + &no_marker + &self.mark.take();
            self.at = At::Content;
        } else if self.mark.text() == self.markers.open {
            self.spaces.take();
            self.mark.take();
            self.at = At::Opened;
        }
        split
    }

    fn inside(&mut self, c: char) -> String {
        let Markers { open, close } = self.markers;
        let first = self.at == At::Opened;
        let could_begin = |text: &str| close.starts_with(text) || first && open.starts_with(text);
        let mut told = String::new();
        for c in self.mark.push(c, could_begin).chars() {
            if !c.is_whitespace() {
                told.push_str(&self.spaces.take());
                told.push(c);
                self.at = At::Inside;
            } else if self.at == At::Inside {
                told.extend(self.spaces.push(c));
            }
        }
        if self.mark.text() == close {
            self.spaces.take();
            self.mark.take();
            self.at = At::Closed;
        } else if self.mark.text() == open {
            self.mark.take();
        }
        told
    }
}
