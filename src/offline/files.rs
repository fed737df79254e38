//! Lines in, lines out. `-` is standard input or output.

use std::{
    fs::File,
    io::{LineWriter, Read, Write},
    path::Path,
};

use serde_json::Value;

use crate::cli::Failure;

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    /// Its text, or why it has none.
    pub(crate) text: Result<String, String>,
}

/// Reads a file's lines. The whole file is held in memory, so that its length is known.
///
/// # Errors
/// A file that cannot be read, or that has nothing in it.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
    } else {
        bytes = std::fs::read(path).map_err(failed)?;
    }
    let lines = lines(&bytes);
    if lines.is_empty() {
        return Err(Failure::usage(format!("{}: it has no lines", path.display())));
    }
    Ok(lines)
}

fn lines(bytes: &[u8]) -> Vec<Line> {
    // Some editors begin a file with the mark of its byte order.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let line = |(number, bytes): (usize, &[u8])| {
        let text = std::str::from_utf8(bytes.strip_suffix(b"\r").unwrap_or(bytes));
        let text = text.map(str::to_owned).map_err(|error| format!("it is no UTF-8: {error}"));
        Line { number, text }
    };
    (1..)
        .zip(bytes.split(|byte| *byte == b'\n'))
        .filter(|(_, bytes)| !bytes.trim_ascii().is_empty())
        .map(line)
        .collect()
}

/// Where results go, a line each; what was written stays, whatever comes after.
pub(crate) struct Output {
    name: String,
    writer: LineWriter<Box<dyn Write + Send>>,
}

impl Output {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// A file that cannot be written, or that is the input.
    pub(crate) fn create(path: &Path, input: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Ok(Self { name, writer: LineWriter::new(Box::new(std::io::stdout())) });
        }
        if let (Ok(output), Ok(input)) = (path.canonicalize(), input.canonicalize())
            && output == input
        {
            return Err(Failure::usage(format!("--output {name} is the input; choose another")));
        }
        let file =
            File::create(path).map_err(|error| Failure::usage(format!("--output {name}: {error}")));
        Ok(Self { name, writer: LineWriter::new(Box::new(file?)) })
    }

    /// Writes a line.
    pub(crate) fn write(&mut self, line: &Value) -> Result<(), Failure> {
        let written = writeln!(self.writer, "{line}");
        written.map_err(|error| Failure::run(format!("--output {}: {error}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_count_but_ask_for_nothing() {
        let lines = lines(b"\xef\xbb\xbfone\r\n\n  \n\xff\xfe\nfive");
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(lines[0].text.as_deref(), Ok("one"));
        assert!(lines[1].text.as_ref().is_err_and(|error| error.contains("UTF-8")));
        assert_eq!(lines[2].text.as_deref(), Ok("five"));
    }

    #[test]
    fn the_input_is_never_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("prompts");
        std::fs::write(&file, "keep me").expect("written");
        let other_name = folder.path().join(".").join("prompts");
        assert!(Output::create(&other_name, &file).is_err());
        assert_eq!(std::fs::read(&file).expect("read"), b"keep me");
    }
}
