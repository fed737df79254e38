//! Texts to be found in a text that comes in parts.

/// The beginning of some marker, not yet known to be one.
#[derive(Clone, Debug, Default)]
pub(super) struct Partial(String);

impl Partial {
    /// Takes the next character; `could_begin` says whether a text begins a marker. Gives back the
    /// characters that are now known to belong to none, in order.
    pub(super) fn push(&mut self, c: char, could_begin: impl Fn(&str) -> bool) -> String {
        self.0.push(c);
        let mut starts = self.0.char_indices().map(|(start, _)| start);
        let kept = starts.find(|start| could_begin(&self.0[*start..])).unwrap_or(self.0.len());
        let rest = self.0.split_off(kept);
        std::mem::replace(&mut self.0, rest)
    }

    /// What is held.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// What was held, to be used otherwise.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// White space that is left out if the text ends or something else follows, else told.
#[derive(Clone, Debug, Default)]
pub(super) struct Spaces(String);

impl Spaces {
    /// Takes a space. Gives back what is held no longer, because there is too much of it.
    pub(super) fn push(&mut self, c: char) -> Option<char> {
        self.0.push(c);
        (self.0.len() > SPACES_MAX).then(|| self.0.remove(0))
    }

    /// What was held.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// Bytes of white space held back. Models write a line break or two.
const SPACES_MAX: usize = 64;
