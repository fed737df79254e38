//! A client of HTTP/1.1 in the standard library alone: what a test sends and reads is what stands
//! on the wire, and nothing retries, pools or reconnects behind its back.
//!
//! One connection per request. A [`Stream`] reads server-sent events as they come; dropping it
//! closes the connection, which is how a client goes away.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Longer than any answer takes on a busy machine: past it something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Every header on a line of its own, in lower case.
    pub(crate) headers: String,
    pub(crate) text: String,
}

/// An answer of server-sent events.
pub(crate) struct Stream {
    pub(crate) status: u16,
    headers: String,
    body: Body,
}

/// What a stream says next.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Data(Value),
    /// `data: [DONE]`.
    Done,
    /// The connection ended before the answer did, or said nothing for too long.
    Broken(String),
}

/// A GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    whole(open(address, &format!("GET {path} HTTP/1.1\r\n"), "")?)
}

/// A POST of JSON.
pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> std::io::Result<Answer> {
    whole(open(address, &format!("POST {path} HTTP/1.1\r\n"), &body.to_string())?)
}

/// A POST of JSON with one more header, as `name: value`.
pub(crate) fn post_with(
    address: SocketAddr,
    path: &str,
    header: &str,
    body: &Value,
) -> std::io::Result<Answer> {
    let head = format!("POST {path} HTTP/1.1\r\n{header}\r\n");
    whole(open(address, &head, &body.to_string())?)
}

/// A POST of JSON whose answer is read event by event.
pub(crate) fn stream(address: SocketAddr, path: &str, body: &Value) -> std::io::Result<Stream> {
    stream_with(address, path, "", body)
}

/// The same with more headers, each a line with its end.
pub(crate) fn stream_with(
    address: SocketAddr,
    path: &str,
    headers: &str,
    body: &Value,
) -> std::io::Result<Stream> {
    let head = format!("POST {path} HTTP/1.1\r\n{headers}");
    let (status, headers, body) = open(address, &head, &body.to_string())?;
    Ok(Stream { status, headers, body })
}

fn whole((status, headers, mut body): (u16, String, Body)) -> std::io::Result<Answer> {
    let mut text = String::new();
    body.read_to_string(&mut text)?;
    Ok(Answer { status, headers, text })
}

fn open(address: SocketAddr, line: &str, body: &str) -> std::io::Result<(u16, String, Body)> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{line}host: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body.as_bytes())?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| malformed(&format!("status line `{line}`")))?;
    let mut framing = Framing::UntilClosed;
    let mut headers = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim_end().to_ascii_lowercase();
        headers.extend([&header, "\n"]);
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("transfer-encoding", "chunked")) => framing = Framing::Chunked { left: 0 },
            Some(("content-length", value)) => {
                let left = value.parse().map_err(|_| malformed(&header))?;
                framing = Framing::Length { left };
            }
            Some(_) => {}
        }
    }
    Ok((status, headers, Body { reader, framing, ended: false }))
}

// === impl Answer ===

impl Answer {
    /// What a header says; nothing if it is not there.
    #[allow(dead_code, reason = "not everybody who mounts this looks at headers")]
    pub(crate) fn header(&self, name: &str) -> &str {
        let said = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(": ").map(str::len);
        let line = self.headers.lines().find(|line| said(line).is_some());
        line.map_or("", |line| &line[name.len() + 2..])
    }

    /// The body, which has to be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text))
    }

    /// The body of an answer that is no error.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }
}

// === impl Stream ===

impl Stream {
    /// All of it, where it is a refusal and no events.
    #[allow(dead_code, reason = "not everybody who mounts this is refused")]
    pub(crate) fn whole(self) -> std::io::Result<Answer> {
        whole((self.status, self.headers, self.body))
    }
}

impl Iterator for Stream {
    type Item = Event;

    /// None once the answer has ended as HTTP says it should.
    fn next(&mut self) -> Option<Event> {
        loop {
            let mut line = Vec::new();
            match self.body.read_line(&mut line) {
                Err(error) => return Some(Event::Broken(error.to_string())),
                Ok(()) if line.is_empty() => return None,
                Ok(()) => {}
            }
            let line = String::from_utf8(line).expect("events are UTF-8");
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => return Some(Event::Done),
                Some(data) => {
                    let data = serde_json::from_str(data);
                    return Some(Event::Data(data.expect("an event's data is JSON")));
                }
                None => {}
            }
        }
    }
}

// === impl Body ===

struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
    ended: bool,
}

enum Framing {
    Length { left: usize },
    Chunked { left: usize },
    UntilClosed,
}

impl Body {
    /// A line with its end, or nothing at the end of the body.
    fn read_line(&mut self, line: &mut Vec<u8>) -> std::io::Result<()> {
        let mut byte = [0];
        while self.read(&mut byte)? == 1 {
            line.push(byte[0]);
            if byte[0] == b'\n' {
                break;
            }
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> std::io::Result<usize> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        // The line break that ends the chunk before.
        if line == "\r\n" {
            line.clear();
            self.reader.read_line(&mut line)?;
        }
        usize::from_str_radix(line.trim_end(), 16)
            .map_err(|_| malformed(&format!("the connection ended in the answer (`{line}`)")))
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if let Framing::Chunked { left: 0 } = self.framing {
            let left = self.next_chunk()?;
            self.framing = Framing::Chunked { left };
        }
        let limit = match self.framing {
            Framing::Length { left } | Framing::Chunked { left } => left.min(into.len()),
            Framing::UntilClosed => into.len(),
        };
        let count = self.reader.read(&mut into[..limit])?;
        match &mut self.framing {
            _ if limit == 0 => self.ended = true,
            Framing::Length { left } | Framing::Chunked { left } => {
                if count == 0 {
                    return Err(malformed("the connection ended in the answer"));
                }
                *left -= count;
            }
            Framing::UntilClosed => self.ended = count == 0,
        }
        Ok(count)
    }
}

fn malformed(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}
