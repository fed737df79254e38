//! What clients do below the meaning of HTTP: heads and bodies that do not come, too many of
//! everything, requests that two readers understand in two ways. Each costs its own connection at
//! most.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};

use crate::support::{PATIENCE, Stage, leader::says, stage, stage_with};

const PATH: &str = "/v1/completions";
/// Long enough for an honest request on a busy machine.
const SHORT: Duration = Duration::from_millis(300);

async fn connect(stage: &Stage) -> TcpStream {
    TcpStream::connect(stage.gateway.address()).await.expect("a server")
}

/// All that comes until the gateway ends the connection.
async fn until_end(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end too, and what came before it counts.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut all)).await.expect("it is ended");
    String::from_utf8_lossy(&all).into_owned()
}

async fn said(stage: &Stage, request: &str) -> String {
    let mut socket = connect(stage).await;
    socket.write_all(request.as_bytes()).await.expect("it reads");
    until_end(&mut socket).await
}

/// Sends a text byte by byte, for as long as somebody reads it, and returns what is answered.
async fn trickle(stage: &Stage, head: &str, text: &str) -> String {
    let mut socket = connect(stage).await;
    socket.write_all(head.as_bytes()).await.expect("it reads");
    let (mut read, mut write) = socket.split();
    let sends = async {
        let mut ticks = interval(SHORT / 20);
        for byte in text.bytes().cycle() {
            ticks.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let mut all = Vec::new();
    tokio::select! {
        () = sends => {}
        ended = timeout(PATIENCE, read.read_to_end(&mut all)) => {
            let _ = ended.expect("it is ended");
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn head(body: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
}

async fn serves(stage: &Stage) {
    let body = json!({"prompt": "x", "max_tokens": 5});
    assert_eq!(stage.post(PATH, body).await.status, 200, "others are served");
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": 0}));
}

#[tokio::test]
async fn heads_and_bodies_that_do_not_come_are_not_waited_for() {
    let stage = stage_with(vec![says("ok")], |config| {
        (config.head_timeout, config.body_timeout) = (SHORT, SHORT);
    })
    .await;
    let mut silent = connect(&stage).await;
    let (line, endless) = (format!("POST {PATH} HTTP/1.1\r\n"), "x-a: b\r\n");
    let long = format!("{{\"prompt\": \"{}\"}}", "a".repeat(1000));
    let head = head(&long);
    let (of_heads, of_bodies, at_all) = tokio::join!(
        trickle(&stage, &line, endless),
        trickle(&stage, &head, &long),
        until_end(&mut silent),
    );
    for ended in [of_heads, at_all] {
        assert!(ended.is_empty() || ended.starts_with("HTTP/1.1 408"), "{ended}");
    }
    assert!(of_bodies.starts_with("HTTP/1.1 400"), "{of_bodies}");
    assert!(of_bodies.contains("did not arrive in time"), "{of_bodies}");
    serves(&stage).await;
}

#[tokio::test]
async fn connections_have_a_bound_and_who_says_nothing_makes_room() {
    let stage = stage_with(vec![says("ok")], |config| {
        (config.max_connections, config.head_timeout) = (3, SHORT);
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(connect(&stage).await);
    }
    // Far fewer are taken at a time; each makes room once its time is over, and then it is the turn
    // of this one.
    let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = timeout(PATIENCE, said(&stage, request)).await.expect("its turn comes");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn heads_have_limits() {
    let stage = stage(says("ok")).await;
    let with = |headers: &str| format!("GET /health HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let many: String = (0..500).map(|at| format!("x-{at}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1 << 20));
    for refused in [with(&many), with(&long), format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20))]
    {
        let answer = said(&stage, &refused).await;
        // Whoever goes on sending may find the connection reset before it can read.
        let known = ["HTTP/1.1 431", "HTTP/1.1 414"].iter().any(|line| answer.starts_with(line));
        assert!(known || answer.is_empty(), "{answer}");
    }
    let some: String = (0..100).map(|at| format!("x-{at}: y\r\n")).collect();
    let answer = said(&stage, &with(&(some + "connection: close\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for garbage in [
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\u{0}b\r\n\r\n",
    ] {
        let answer = said(&stage, garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer}");
    }
    serves(&stage).await;
}

/// Where a proxy and this gateway may see different ends of one request, what follows it is never
/// taken for another one.
#[tokio::test]
async fn a_request_is_never_found_within_another() {
    let stage = stage(says("ok")).await;
    let hidden = "GET /version HTTP/1.1\r\nhost: x\r\nx-request-id: hidden\r\n\r\n";
    let start = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    let lengths = |first: &str, second: &str| format!("{start}{first}\r\n{second}\r\n\r\n");
    let long = format!("content-length: {}", hidden.len() + 5);
    let chunked = "transfer-encoding: chunked";
    for request in [
        lengths(&long, chunked) + "0\r\n\r\n" + hidden,
        lengths(chunked, &long) + "0\r\n\r\n" + hidden,
        lengths(chunked, "content-length: 0") + "0\r\n\r\n" + hidden,
        lengths("transfer-encoding: xchunked", "content-length: 0") + hidden,
        lengths("transfer-encoding: chunked, identity", "content-length: 0") + hidden,
        lengths("content-length: 0", &long) + hidden,
        lengths("content-length: +0", "x: y") + hidden,
        lengths("content-length: 0x0", "x: y") + hidden,
        lengths("content-length: -1", "x: y") + hidden,
        lengths("content-length : 0", "x: y") + hidden,
        lengths("transfer-encoding: chunked", "x: y") + "ffffffffffffffffff\r\n" + hidden,
    ] {
        let answer = said(&stage, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request}: {answer}");
        assert!(!answer.contains("hidden"), "{request}: {answer}");
    }
    // What is no part of another is answered by itself, so that one in excess would show.
    let last = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for first in [lengths("content-length: 0", "x: y"), lengths(chunked, "x: y") + "0\r\n\r\n"] {
        let answer = said(&stage, &(first + last)).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    }
    serves(&stage).await;
}

/// Requests over HTTP/2 that are taken back at once, as many as fit into the socket: whoever does
/// that is told to calm down and loses its connection.
#[tokio::test]
async fn requests_that_are_reset_at_once_end_their_connection() {
    let listen = Some(([127, 0, 0, 1], 0).into());
    let stage = stage_with(vec![says("ok")], |config| config.picker_listen = listen).await;
    let door = stage.gateway.picker_address().expect("it listens");
    let mut socket = TcpStream::connect(door).await.expect("a server");
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    let mut fields = vec![POST, HTTP];
    for (name, value) in [
        (&PATH_IS[..], "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
        (&AUTHORITY_IS, "x"),
        (&CONTENT_TYPE_IS, "application/grpc"),
    ] {
        fields.extend(name);
        fields.push(value.len() as u8);
        fields.extend(value.as_bytes());
    }
    for stream in (1..10_000).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS, stream, &fields));
        flood.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }
    let (mut read, mut write) = socket.split();
    // It may be gone before all of it is sent.
    let sends = async { drop(write.write_all(&flood).await) };
    let mut told = Vec::new();
    let reads = async { drop(read.read_to_end(&mut told).await) };
    timeout(PATIENCE, async { tokio::join!(sends, reads) }).await.expect("it is ended");
    assert_eq!(goaway(&told), Some(ENHANCE_YOUR_CALM), "{} bytes", told.len());
    let mut other = TcpStream::connect(door).await.expect("a server");
    other.write_all(&flood[..24 + 9]).await.expect("it reads");
    let mut first = [0; 9];
    other.read_exact(&mut first).await.expect("it answers others");
    assert_eq!(first[3], SETTINGS);
}

/// Pings without end: whoever sends them loses its connection, and others are served.
#[tokio::test]
async fn a_flood_of_pings_ends_its_connection() {
    let listen = Some(([127, 0, 0, 1], 0).into());
    let stage = stage_with(vec![says("ok")], |config| config.picker_listen = listen).await;
    let door = stage.gateway.picker_address().expect("it listens");
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    begin.extend(frame(SETTINGS, 0, 0, &[]));
    let mut socket = TcpStream::connect(door).await.expect("a server");
    socket.write_all(&begin).await.expect("it reads");
    let (mut read, mut write) = socket.split();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let sends = async { while write.write_all(&pings).await.is_ok() {} };
    let reads = async { while read.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
    timeout(PATIENCE, async { tokio::join!(sends, reads) }).await.expect("it is ended");
    let mut other = TcpStream::connect(door).await.expect("a server");
    other.write_all(&begin).await.expect("it reads");
    let mut first = [0; 9];
    other.read_exact(&mut first).await.expect("it answers others");
    assert_eq!(first[3], SETTINGS);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The reason that a connection was ended with.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = frames.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        if head[3] == GOAWAY {
            return Some(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?));
        }
        frames = rest;
    }
    None
}

// Kinds of frames, a flag and two reasons (RFC 9113).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
// Entries of the table that both sides know (RFC 7541), the latter three with a value that follows.
const POST: u8 = 0x83;
const HTTP: u8 = 0x86;
const PATH_IS: [u8; 1] = [0x04];
const AUTHORITY_IS: [u8; 1] = [0x01];
const CONTENT_TYPE_IS: [u8; 2] = [0x0f, 0x10];
