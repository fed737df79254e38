//! Hermes, Qwen 2.5 and Qwen 3: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`.
//!
//! Several calls are several such blocks; some models put several objects into one.

use super::{
    draft::{Draft, Reader, Step},
    marker::Partial,
    object::CallObject,
};

pub(super) const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// One block.
pub(super) struct Hermes {
    object: Option<CallObject>,
    close: Partial,
}

impl Hermes {
    /// Behind the opening tag.
    pub(super) fn new() -> Self {
        Self { object: Some(CallObject::marked()), close: Partial::default() }
    }
}

impl Reader for Hermes {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        let Some(object) = &mut self.object else { return self.between(c, call) };
        let step = object.read(c, call);
        if step == Step::Over {
            self.object = None;
            return Step::More;
        }
        step
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        self.object.is_none()
    }

    fn closer(&self) -> Option<&'static str> {
        Some(CLOSE)
    }
}

impl Hermes {
    /// Behind an object.
    fn between(&mut self, c: char, call: &mut Draft) -> Step {
        if self.close.text().is_empty() {
            if c.is_whitespace() {
                return Step::More;
            }
            if c == '{' {
                return self.object.insert(CallObject::marked()).read(c, call);
            }
        }
        match self.close.push(c, |text| CLOSE.starts_with(text)) {
            other if !other.is_empty() => Step::Invalid,
            _ if self.close.text() == CLOSE => Step::Over,
            _ => Step::More,
        }
    }
}
