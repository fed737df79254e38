//! What a parser says, and what it all adds up to.

/// The next part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Thought, not said.
    Reasoning(String),
    /// Said.
    Content(String),
    /// The next tool call begins.
    ToolCall {
        /// From 0, in the order of the text.
        index: u32,
        /// Which tool.
        name: String,
    },
    /// Its arguments go on.
    ToolArguments {
        /// Whose.
        index: u32,
        /// A part of a JSON text.
        fragment: String,
    },
}

/// Pieces in order, neighbors of one kind joined.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Piece>);

// === impl Pieces ===

impl Pieces {
    pub(super) fn reasoning(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Reasoning(so_far)) => so_far.push_str(text),
            _ => self.0.push(Piece::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Content(so_far)) => so_far.push_str(text),
            _ => self.0.push(Piece::Content(text.to_owned())),
        }
    }

    pub(super) fn call(&mut self, index: u32, name: String) {
        self.0.push(Piece::ToolCall { index, name });
    }

    pub(super) fn arguments(&mut self, index: u32, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::ToolArguments { index: of, fragment }) if *of == index => {
                fragment.push_str(text);
            }
            _ => self.0.push(Piece::ToolArguments { index, fragment: text.to_owned() }),
        }
    }

    /// All so far.
    pub(super) fn into_vec(self) -> Vec<Piece> {
        self.0
    }
}
