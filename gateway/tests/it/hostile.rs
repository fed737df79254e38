//! Clients that go away, do not read, or send what nobody should.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use troupe_runtime::wire::generate::{FinishReason, Finished, GenerateDown, Usage};

use crate::support::{
    PATIENCE, Script, Seen, Stage,
    http::Client,
    leader::{Act, chunk, says},
    stage, stage_with,
};

const PATH: &str = "/v1/completions";

/// A socket on which a streaming request was sent.
async fn open_stream(stage: &Stage) -> TcpStream {
    let mut socket = TcpStream::connect(stage.gateway.address()).await.expect("a server");
    ask(&mut socket).await;
    socket
}

async fn ask(socket: &mut TcpStream) {
    let body = json!({"prompt": "x", "max_tokens": 60, "stream": true}).to_string();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("it reads");
}

/// Says one token and then nothing.
fn hangs() -> Script {
    Arc::new(|generate| vec![Act::Say(GenerateDown::Chunk(chunk(generate, 0, 0, vec![70])))])
}

#[tokio::test]
async fn a_client_that_goes_away_aborts_its_request() {
    let stage = stage(hangs()).await;
    let mut socket = open_stream(&stage).await;
    let mut head = [0; 64];
    socket.read_exact(&mut head).await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    stage.leaders[0].started().await;
    drop(socket);
    assert_eq!(stage.leaders[0].saw().await, Seen::Aborted);
    stage.until(|text| text.contains("finished_reason=\"abort\"} 1")).await;
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": 0}));
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_aborts_too() {
    let stage = stage(Arc::new(|_| vec![])).await;
    let socket = open_stream(&stage).await;
    stage.leaders[0].started().await;
    drop(socket);
    assert_eq!(stage.leaders[0].saw().await, Seen::Aborted);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_held_in_bounded_memory_and_cut() {
    // One event per token, far more of them than sockets and buffers hold.
    const TOKENS: u32 = 100_000;
    let script: Script = Arc::new(|generate| {
        let chunks = (0..TOKENS).map(|at| chunk(generate, 0, at, vec![70]));
        chunks.map(|chunk| Act::Say(GenerateDown::Chunk(chunk))).collect()
    });
    let stage = stage_with(vec![script], |config| {
        config.stall_timeout = Duration::from_millis(200);
    })
    .await;
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(16 << 10).unwrap();
    let mut socket = small.connect(stage.gateway.address()).await.unwrap();
    ask(&mut socket).await;
    assert_eq!(stage.leaders[0].saw_end().await, Seen::Aborted);
    // What was taken from the leader: the client's 16 KiB, our socket's 256 KiB (the kernel doubles
    // both), the 256 KiB that a connection buffers, and the conversation's window of 64 chunks. An
    // event has over 100 bytes.
    let most = 2 * (16 << 10) + 2 * (256 << 10) + (256 << 10);
    let said = stage.leaders[0].said();
    assert!(said < most / 100 + 64, "{said} of {TOKENS} chunks were taken");
    assert_eq!(stage.get("/health").await.status, 200, "nobody else notices");
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": 0}));
    drop(socket);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    const TOKENS: u32 = 20_000;
    let script: Script = Arc::new(|generate| {
        let mut acts: Vec<Act> = (0..TOKENS)
            .map(|at| Act::Say(GenerateDown::Chunk(chunk(generate, 0, at, vec![70]))))
            .collect();
        let mut last = chunk(generate, 0, TOKENS, vec![]);
        let usage = Usage { completion_tokens: TOKENS, ..Usage::default() };
        let reason = FinishReason::Length;
        last.finish = Some(Finished { reason, stop_token: None, usage });
        acts.push(Act::Say(GenerateDown::Chunk(last)));
        acts
    });
    let stage = stage(script).await;
    let mut socket = open_stream(&stage).await;
    let mut text = Vec::new();
    let read = async {
        // Small parts, and a turn for everybody else between them.
        let mut part = [0; 4096];
        while !text.ends_with(b"0\r\n\r\n") {
            let count = socket.read(&mut part).await.unwrap();
            assert!(count > 0, "cut off");
            text.extend_from_slice(&part[..count]);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the end comes");
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("data: [DONE]"));
    assert_eq!(text.matches("data: {").count(), TOKENS as usize + 1);
}

/// Ten thousand requests over 250 connections, where there is room for 100 at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_told_so_and_the_rest_is_finished() {
    const CONNECTIONS: usize = 250;
    const EACH: usize = 40;
    const ROOM: usize = 100;
    let (gate, opens) = tokio::sync::watch::channel(false);
    let says = says("done");
    let script: Script = Arc::new(move |generate| {
        let mut acts = vec![Act::Gate(opens.clone())];
        acts.extend(says(generate));
        acts
    });
    let stage = stage_with(vec![script], |config| config.max_requests = ROOM).await;
    // While the gate is shut, 100 connections wait for their first answer, and all that the
    // others ask is refused.
    let refused = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (address, refused) = (stage.gateway.address(), Arc::clone(&refused));
        clients.spawn(async move { ask_again_and_again(address, EACH, &refused).await });
    }
    let full = async {
        while refused.load(Ordering::Relaxed) < (CONNECTIONS - ROOM) * EACH {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, full).await.expect("all others are refused");
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": ROOM}));
    gate.send_replace(true);
    let done = tokio::time::timeout(3 * PATIENCE, clients.join_all()).await.expect("all end");
    assert_eq!(done.iter().sum::<usize>(), ROOM * EACH, "what was let in was finished");
    assert_eq!(refused.load(Ordering::Relaxed), (CONNECTIONS - ROOM) * EACH);
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": 0}));
}

/// How many of `count` requests on one connection were answered; the others must be refused as
/// they should be, and are counted.
async fn ask_again_and_again(address: SocketAddr, count: usize, refused: &AtomicUsize) -> usize {
    let client = Client::new(address);
    let json = [("content-type", "application/json")];
    let mut answered = 0;
    for _ in 0..count {
        let body = json!({"prompt": "x", "max_tokens": 20}).to_string();
        let reply = client.send_within(3 * PATIENCE, ("POST", PATH), &json, body).await;
        match reply.status {
            503 => {
                assert_eq!(reply.header("retry-after"), "1");
                assert!(reply.error().2.starts_with("The engine is currently busy"));
                refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                assert_eq!(reply.ok()["choices"][0]["text"], "done");
                answered += 1;
            }
        }
    }
    answered
}

#[tokio::test]
async fn bodies_have_limits() {
    let stage = stage_with(vec![says("ok")], |config| config.max_body_bytes = 100_000).await;
    let (status, ..) =
        stage.raw(PATH, &format!("{{\"prompt\": \"{}\"}}", "a".repeat(100_000))).await.error();
    assert_eq!(status, 413);
    let deep = |open: &str, close: &str| {
        format!("{{\"x\": {}1{}, \"prompt\": \"x\"}}", open.repeat(9000), close.repeat(9000))
    };
    for body in [deep("[", "]"), deep("{\"a\":", "}")] {
        let (status, _, message, _) = stage.raw(PATH, &body).await.error();
        assert_eq!(status, 400);
        assert!(message.contains("nested deeper"), "{message}");
    }
    for body in ["", "nothing", "{", "[]", "3", "\"a\"", "null", "{\"prompt\": \"x\"} 1", "\u{0}"] {
        let (status, kind, message, param) = stage.raw(PATH, body).await.error();
        assert_eq!((status, kind.as_str()), (400, "Bad Request"), "{body}: {message}");
        assert_eq!(param.as_deref(), Some("body"), "{body}");
    }
    assert_eq!(stage.post(PATH, json!({"prompt": "x"})).await.status, 200);
}

#[tokio::test]
async fn halves_of_characters_never_show() {
    let stage = stage(says("naïve 🦊 fin")).await;
    let body = json!({"prompt": "x", "max_tokens": 50});
    let mut text = String::new();
    for event in stage.events(PATH, body).await {
        let part = event["choices"][0]["text"].as_str().unwrap().to_owned();
        assert!(!part.contains('\u{fffd}'), "{part}");
        text.push_str(&part);
    }
    assert_eq!(text, "naïve 🦊 fin");
}
