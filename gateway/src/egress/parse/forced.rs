//! Calls that a grammar forces: no markers, nothing but the calls.
//!
//! `required` is an array of `{"name": ..., "parameters": ...}`, a named tool nothing but its
//! arguments; both as vLLM has it.

use super::{
    array::CallArray,
    draft::{Draft, Reader, Step},
};

/// At least one call of any tool.
pub(super) struct Required(CallArray);

/// One call of one tool.
pub(super) struct Named(String);

impl Required {
    pub(super) fn new() -> Self {
        Self(CallArray::new())
    }
}

impl Reader for Required {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        self.0.read(c, call)
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        self.0.between()
    }

    fn is_certain(&self) -> bool {
        true
    }
}

impl Named {
    pub(super) fn new(name: String) -> Self {
        Self(name)
    }
}

impl Reader for Named {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        call.name = Some(self.0.clone());
        call.arguments.push(c);
        Step::More
    }

    fn finish(&mut self, call: &mut Draft) -> bool {
        call.name = Some(self.0.clone());
        call.complete = true;
        true
    }

    fn is_certain(&self) -> bool {
        true
    }
}
