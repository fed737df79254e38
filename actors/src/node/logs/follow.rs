//! Reads a log: its last lines, then every line that is added, across the change of files.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use tokio::io::AsyncReadExt;

use super::{shelf::older, sink::LINE_BYTES};

/// Whoever reads a log from some line on.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: tokio::fs::File,
    /// Which file that is.
    inode: u64,
    /// Of a line that is not complete.
    begun: Vec<u8>,
}

/// A file has no news to wait for, only more to be read.
const LOOK: Duration = Duration::from_millis(250);

// === impl Follow ===

impl Follow {
    /// Blocks for as long as it takes to read that many lines.
    pub(super) fn open(path: PathBuf, lines: usize) -> io::Result<(Vec<String>, Self)> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = fs::File::open(&path).map_err(named)?;
        let inode = file.metadata()?.ino();
        let mut last = last_lines(&mut file, lines)?;
        if last.len() < lines
            && let Ok(mut older) = fs::File::open(older(&path))
            // It may have become the older one between the two looks.
            && older.metadata()?.ino() != inode
        {
            let mut before = last_lines(&mut older, lines - last.len())?;
            before.append(&mut last);
            last = before;
        }
        let file = tokio::fs::File::from_std(file);
        Ok((last, Self { path, file, inode, begun: Vec::new() }))
    }

    /// The next lines, once there are some; `None` when the log is gone. Safe to cancel.
    ///
    /// # Errors
    /// A disk that cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Vec<String>>> {
        loop {
            if let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                let lines = split(&std::mem::replace(&mut self.begun, rest));
                return Ok(Some(lines));
            }
            let mut more = vec![0; LINE_BYTES];
            let count = self.file.read(&mut more).await?;
            self.begun.extend_from_slice(&more[..count]);
            if count > 0 {
                continue;
            }
            match self.turn_over().await? {
                Turned::Next => {}
                Turned::Wait => tokio::time::sleep(LOOK).await,
                Turned::Gone => return Ok(None),
            }
        }
    }

    /// At the end of a file: whether another has taken its place.
    async fn turn_over(&mut self) -> io::Result<Turned> {
        let now = match tokio::fs::File::open(&self.path).await {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Just being turned over, unless nothing of it is left.
                let left = tokio::fs::try_exists(older(&self.path)).await?;
                return Ok(if left { Turned::Wait } else { Turned::Gone });
            }
            Err(error) => return Err(error),
        };
        let inode = now.metadata().await?.ino();
        if inode == self.inode {
            return Ok(Turned::Wait);
        }
        // The last words of the old file may have come after we found its end.
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest).await?;
        self.begun.append(&mut rest);
        (self.file, self.inode) = (now, inode);
        Ok(Turned::Next)
    }
}

enum Turned {
    Next,
    Wait,
    Gone,
}

/// The last complete lines of a file, which is then positioned right behind them.
fn last_lines(file: &mut fs::File, lines: usize) -> io::Result<Vec<String>> {
    let mut start = file.seek(SeekFrom::End(0))?;
    let mut tail: Vec<u8> = Vec::new();
    // The end of the last line is one more than the lines before it.
    while start > 0 && newlines(&tail) <= lines {
        let step = start.min(LINE_BYTES as u64);
        start -= step;
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; step as usize];
        file.read_exact(&mut block)?;
        block.append(&mut tail);
        tail = block;
    }
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.seek(SeekFrom::Start(start + end as u64))?;
    let mut found = split(&tail[..end]);
    Ok(found.split_off(found.len().saturating_sub(lines)))
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Complete lines without their ends.
fn split(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let bare = lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line));
    bare.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}
