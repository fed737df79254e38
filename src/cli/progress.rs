//! How far a command has come: a bar on a terminal, and a rate at the end.

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// Requests done out of a known number, and the tokens that came of them.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    tokens: u64,
}

impl Progress {
    /// Nothing of `requests` done yet.
    pub(crate) fn new(requests: usize) -> Self {
        // Hidden by itself where the output is no terminal.
        let bar = ProgressBar::new(requests as u64);
        let style = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, began: Instant::now(), tokens: 0 }
    }

    /// The same, without a bar.
    pub(crate) fn hidden(mut self) -> Self {
        self.bar = ProgressBar::hidden();
        self
    }

    /// One more is done.
    pub(crate) fn done(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.bar.set_message(format!("{:.0} tokens/s", self.rate()));
        self.bar.inc(1);
    }

    /// Takes the bar away, and says how fast it went.
    pub(crate) fn finish(self) -> String {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64();
        format!("{} output tokens in {seconds:.1} s, {:.1} tokens/s", self.tokens, self.rate())
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-6)
    }
}
