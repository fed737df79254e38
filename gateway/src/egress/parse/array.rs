//! Tool calls as a JSON array of objects.

use super::{
    draft::{Draft, Step},
    object::CallObject,
};

/// One array on its way.
#[derive(Debug)]
pub(super) struct CallArray(At);

#[derive(Debug)]
enum At {
    Open,
    First,
    Object(CallObject),
    Comma,
    Next,
}

impl CallArray {
    /// Before its bracket.
    pub(super) fn new() -> Self {
        Self(At::Open)
    }

    pub(super) fn read(&mut self, c: char, call: &mut Draft) -> Step {
        let next = match &mut self.0 {
            At::Object(object) => match object.read(c, call) {
                Step::Over => At::Comma,
                step => return step,
            },
            _ if c.is_whitespace() => return Step::More,
            At::Open if c == '[' => At::First,
            At::First | At::Next if c == '{' => {
                let mut object = CallObject::marked();
                object.read(c, call);
                At::Object(object)
            }
            At::Comma if c == ',' => At::Next,
            At::Comma if c == ']' => return Step::Over,
            _ => return Step::Invalid,
        };
        self.0 = next;
        Step::More
    }

    /// Whether it could end here without a call that was begun.
    pub(super) fn between(&self) -> bool {
        matches!(self.0, At::Comma)
    }
}
