//! Starting where a port is taken, and ending while requests are under way.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use troupe_gateway::{GatewayConfig, GatewayError, serve};
use troupe_runtime::{
    discovery::embedded::EmbeddedRegistry, shutdown::shutdown, transport::LocalNetwork,
};

use crate::support::{PATIENCE, Seen, leader::says, stage, stage_with, surroundings};

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (_owner, listener) = shutdown();
    let registry = EmbeddedRegistry::new();
    let around = surroundings(&LocalNetwork::new(), &registry, &registry).await;
    let error = serve(GatewayConfig::new(address), around, listener).unwrap_err();
    assert!(matches!(error, GatewayError::PortInUse { .. }));
    assert!(error.to_string().contains(&address.port().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_finished() {
    // The leader answers only once the test lets it.
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let (wait, says) = (Mutex::new(wait), says("finished"));
    let mut stage = stage(Arc::new(move |generate| {
        tokio::task::block_in_place(|| wait.lock().unwrap().recv().unwrap());
        says(generate)
    }))
    .await;
    let address = stage.gateway.address();
    let answer = async {
        let body = json!({"prompt": "x", "max_tokens": 20});
        stage.post("/v1/completions", body).await.ok()
    };
    let drain = async {
        stage.leaders[0].started().await;
        stage.shutdown.begin();
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        tokio::time::timeout(PATIENCE, refused).await.expect("nobody new is let in");
        go.send(()).unwrap();
    };
    let (answer, ()) = tokio::join!(answer, drain);
    assert_eq!(answer["choices"][0]["text"], "finished");
    tokio::time::timeout(PATIENCE, stage.gateway.wait()).await.expect("it ends");
}

#[tokio::test]
async fn what_does_not_finish_is_cut() {
    let mut stage = stage_with(vec![Arc::new(|_| vec![])], |config| {
        config.drain_timeout = Duration::from_millis(50);
    })
    .await;
    let body = r#"{"prompt": "x"}"#;
    let mut socket = TcpStream::connect(stage.gateway.address()).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    stage.leaders[0].started().await;
    stage.shutdown.begin();
    tokio::time::timeout(PATIENCE, stage.gateway.wait()).await.expect("it ends");
    assert_eq!(stage.leaders[0].saw().await, Seen::Aborted);
}
