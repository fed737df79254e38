//! Answers that come as server-sent events, as OpenAI's API has them: one `data:` line each, a
//! `[DONE]` at the end, and comments that are not looked at.
//! (Format: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.)

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

/// The events of one answer.
pub(crate) struct Events {
    body: Incoming,
    lines: Lines,
}

impl Events {
    /// Of this body.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, lines: Lines::default() }
    }

    /// The data of the next event, nothing after the last; an error if the answer broke off, or if
    /// nothing at all came for `patience`.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, String> {
        loop {
            while let Some(line) = self.lines.next() {
                match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                    Some(b"[DONE]") => return Ok(None),
                    Some(data) => return Ok(Some(data.to_vec())),
                    None => {}
                }
            }
            let frame = tokio::time::timeout(patience, self.body.frame()).await.map_err(|_| {
                format!("the server said nothing for {} s in its answer", patience.as_secs())
            })?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
            if let Some(data) = frame.data_ref() {
                self.lines.push(data);
            }
        }
    }
}

/// Bytes as they come, lines as they end.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where what was not handed out yet begins.
    at: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        // Everything but an unfinished line was handed out by now.
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        rest.get(..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_were_cut() {
        let text = b"data: one\n\n: alive\ndata: [DONE]\n";
        for size in 1..text.len() {
            let (mut lines, mut told) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.next() {
                    told.push(String::from_utf8(line.to_vec()).expect("text"));
                }
            }
            assert_eq!(told, ["data: one", "", ": alive", "data: [DONE]"], "pieces of {size}");
        }
    }
}
