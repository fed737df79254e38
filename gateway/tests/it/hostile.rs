//! Clients that go away, do not read, or send what nobody should.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use troupe_runtime::wire::generate::GenerateDown;

use crate::support::{
    Script, Seen, Stage,
    leader::{Act, chunk, says},
    stage, stage_with,
};

const PATH: &str = "/v1/completions";

/// A socket on which a streaming request was sent.
async fn open_stream(stage: &Stage) -> TcpStream {
    let body = json!({"prompt": "x", "max_tokens": 60, "stream": true}).to_string();
    let mut socket = TcpStream::connect(stage.gateway.address()).await.expect("a server");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("it reads");
    socket
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
async fn a_client_that_does_not_read_is_cut() {
    // More text than sockets hold: chunks of many tokens each.
    let script: Script = Arc::new(|generate| {
        let tokens: Vec<u32> = std::iter::repeat_n(70, 4096).collect();
        let chunks = (0..2000).map(|at| chunk(generate, 0, at * 4096, tokens.clone()));
        chunks.map(|chunk| Act::Say(GenerateDown::Chunk(chunk))).collect()
    });
    let stage = stage_with(vec![script], |config| {
        config.stall_timeout = Duration::from_millis(200);
    })
    .await;
    let socket = open_stream(&stage).await;
    stage.leaders[0].started().await;
    assert_eq!(stage.leaders[0].saw().await, Seen::Aborted);
    assert_eq!(stage.get("/health").await.status, 200, "nobody else notices");
    drop(socket);
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
