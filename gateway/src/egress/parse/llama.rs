//! Llama 3: an answer that is `{"name": "f", "parameters": {...}}`, or several separated by `;`.
//!
//! Nothing but `<|python_tag|>`, and often not even that, tells a call from an answer in JSON, so
//! an object is a call only at the beginning of the answer and only if it looks like one.

use super::{
    draft::{Draft, Reader, Step},
    object::CallObject,
};

pub(super) const TAG: &str = "<|python_tag|>";

/// From the first object to the last.
pub(super) struct Llama {
    object: Option<CallObject>,
    /// Calls were read.
    any: bool,
    /// A `;` was read since the last object.
    separated: bool,
}

impl Llama {
    /// Behind the tag.
    pub(super) fn tagged() -> Self {
        Self { object: None, any: false, separated: false }
    }

    /// Behind the first object's brace.
    pub(super) fn braced() -> Self {
        Self { object: Some(CallObject::bare()), any: false, separated: false }
    }
}

impl Reader for Llama {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        if let Some(object) = &mut self.object {
            let step = object.read(c, call);
            if step == Step::Over {
                *self = Self { object: None, any: true, separated: false };
                return Step::More;
            }
            return step;
        }
        match c {
            c if c.is_whitespace() => Step::More,
            ';' if self.any && !self.separated => {
                self.separated = true;
                Step::More
            }
            '{' => {
                self.object = Some(CallObject::bare());
                Step::More
            }
            _ => Step::Invalid,
        }
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        self.object.is_none() && self.any
    }
}
