//! Writes a member's log while the member runs.
//!
//! Line by line, so that neither a file nor the node's own standard error ever holds half of one in
//! the middle of another. A file that is full becomes the earlier part, and the one before it goes.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
};

use super::shelf::older;

/// A log that is written.
#[derive(Debug)]
pub(in crate::node) struct Sink {
    path: PathBuf,
    file: fs::File,
    bytes: u64,
}

/// A part of a log. Two of them are kept, so a member has at most twice as much.
pub(super) const PART_BYTES: u64 = 8 << 20;
/// Longer lines are cut into several.
pub(super) const LINE_BYTES: usize = 64 << 10;

// === impl Sink ===

impl Sink {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = fs::File::options().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    /// Adds a line, which ends as one.
    pub(super) fn add(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes + line.len() as u64 > PART_BYTES {
            fs::rename(&self.path, older(&self.path))?;
            *self = Self::open(std::mem::take(&mut self.path))?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Copies what a member says to its log and to the node's own standard error, until it has ended.
/// A log that cannot be written is given up, with a word; the member never waits for a reason.
pub(in crate::node) fn copy(from: impl Read, mut log: Option<Sink>, mut to: impl Write) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::warn!(%error, "a member's words cannot be read"),
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if let Some(sink) = &mut log
            && let Err(error) = sink.add(&line)
        {
            let path = sink.path.display().to_string();
            tracing::warn!(path, %error, "a member's log is given up");
            log = None;
        }
        // Nobody reads it: the log still has it.
        let _ = to.write_all(&line);
    }
}
