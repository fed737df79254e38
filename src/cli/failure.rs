//! What goes wrong, and how the person at the terminal hears of it.

use std::{fmt, io::Write, net::SocketAddr};

use troupe_runtime::wire::operate::Reason;

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(super) code: u8,
    message: String,
    /// What a control host calls it, if it refused something.
    reason: Option<Reason>,
    /// The message says by itself whose it is.
    told: bool,
}

impl Failure {
    /// Arguments, model or configuration cannot work; nothing was started.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string(), reason: None, told: false }
    }

    /// It failed while running.
    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string(), reason: None, told: false }
    }

    /// It failed in `kubectl`'s words: the message begins as one of its, `error: ` or
    /// `Error from server`.
    pub(crate) fn told(message: impl fmt::Display) -> Self {
        Self { told: true, ..Self::run(message) }
    }

    /// The same, refused by a control host.
    pub(crate) fn refused(reason: Reason, message: impl fmt::Display) -> Self {
        Self { reason: Some(reason), ..Self::told(message) }
    }

    /// Whether it is that something is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.reason == Some(Reason::NotFound)
    }

    /// What the person is to read.
    pub(crate) fn message(&self) -> String {
        if self.told { self.message.clone() } else { format!("troupe: {}", self.message) }
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

/// Says where proxies find the endpoint picker, if they may ask it.
pub(crate) fn say_picker(address: Option<SocketAddr>) {
    if let Some(address) = address {
        say(&format!("endpoint picker on http://{address}"));
    }
}

/// Prints what was asked for. A reader that has gone away ends nothing.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
