//! One tool call while it is being read, and what reads it.
//!
//! A call is told once it is complete, or once it is named, has arguments, and so many bytes were
//! in order that waiting would only cost the client time. A call that breaks before that comes back
//! as content; one that breaks later is told to its end as it was written, as OpenAI's are.

/// What a reader made of one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to a call, or to what stands around calls.
    More,
    /// It was the last of the calls: what follows is content again.
    Over,
    /// No call of this family goes on like this.
    Invalid,
}

/// Reads what follows a family's marker: one call or several.
pub(super) trait Reader: Send {
    /// Takes the next character and writes into the call what it says.
    fn read(&mut self, c: char, call: &mut Draft) -> Step;

    /// The text has ended. Whether that is a fit end: no call was begun that is not complete.
    fn finish(&mut self, call: &mut Draft) -> bool;

    /// What stands behind a call, if its family marks that.
    fn closer(&self) -> Option<&'static str> {
        None
    }

    /// Whether a grammar holds the model to this form, so that nothing need be held back.
    fn is_certain(&self) -> bool {
        false
    }
}

/// A call as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Which tool.
    pub(super) name: Option<String>,
    /// Its arguments, or what of them was not told yet.
    pub(super) arguments: String,
    /// Nothing is missing.
    pub(super) complete: bool,
}

impl Draft {
    /// Enough to begin to tell it.
    pub(super) fn has_begun(&self) -> bool {
        self.name.is_some() && !self.arguments.is_empty()
    }
}

/// Bytes of a call in order after which it is told as it comes. A call of this size takes a second
/// or so to write; most are smaller, and so are told only when they are whole.
pub(super) const TOLD_AFTER: usize = 256;

/// Bytes after which a call without a name, or without the beginning of its arguments, is none.
pub(super) const GIVEN_UP_AFTER: usize = 4096;
