//! What goes wrong, and how the person at the terminal hears of it.

use std::fmt;

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    /// Arguments, model or configuration cannot work; nothing was started.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// It failed while running.
    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// A usage failure with all its causes.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        Self::usage(troupe_runtime::error::chain(error))
    }
}

/// Says something to the person at the terminal. Logs have their own way.
#[expect(clippy::print_stderr, reason = "this is the one place that speaks to the terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
