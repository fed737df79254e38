//! Servers of OpenAI's API that are not ours, behind this gateway. They are scripted, but speak
//! real HTTP: what is tested is what goes over the wire, and what happens when one fails.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use troupe_gateway::ForeignEndpoint;
use troupe_runtime::{discovery::Op, spec::Kind};

use crate::support::{MODEL, PATIENCE, Stage, leader::says, stage_with};

/// What a foreign server does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answers,
    IsUnavailable,
}

#[derive(Clone)]
struct Foreign {
    name: &'static str,
    does: Does,
    waiting: Arc<AtomicU32>,
    asked: Arc<AtomicUsize>,
}

/// One that is up until it is dropped.
struct Server {
    address: SocketAddr,
    state: Foreign,
    _task: JoinSet<()>,
}

async fn server(name: &'static str, does: Does) -> Server {
    let state = Foreign { name, does, waiting: Arc::default(), asked: Arc::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new()
        .route(
            "/v1/models",
            get(|| async {
                Json(json!({"object": "list", "data": [{"id": "llama", "max_model_len": 4096}]}))
            }),
        )
        .route("/metrics", get(metrics))
        .route("/v1/completions", post(complete))
        .with_state(state.clone());
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    Server { address, state, _task: task }
}

async fn metrics(State(state): State<Foreign>) -> String {
    let waiting = state.waiting.load(Ordering::Relaxed);
    format!(
        "vllm:num_requests_running{{a=\"b\"}} 1\nvllm:num_requests_waiting{{a=\"b\"}} {waiting}\n"
    )
}

async fn complete(State(state): State<Foreign>, headers: HeaderMap, body: Bytes) -> Response {
    state.asked.fetch_add(1, Ordering::Relaxed);
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    match state.does {
        Does::IsUnavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Does::Answers => {
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            Json(json!({
                "from": state.name,
                "model": body["model"],
                "kept": body["a_field_of_theirs"],
                "authorization": header("authorization"),
                "request": header("x-request-id"),
            }))
            .into_response()
        }
    }
}

async fn behind(servers: &[&Server]) -> Stage {
    let endpoints: Vec<Value> = servers
        .iter()
        .map(|server| {
            let url = format!("http://{}/v1", server.address);
            json!({"name": server.state.name, "url": url, "apiKey": "theirs"})
        })
        .collect();
    behind_file(json!({ "endpoints": endpoints })).await
}

async fn behind_file(file: Value) -> Stage {
    let stage = stage_with(vec![says("ours")], |config| {
        config.foreign = ForeignEndpoint::read(file).expect("a good file");
    })
    .await;
    let known = async {
        while !stage.get("/v1/models").await.text.contains("llama") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("it is known in time");
    stage
}

async fn ask(stage: &Stage, model: &str) -> crate::support::Reply {
    let body = json!({"model": model, "prompt": "x", "a_field_of_theirs": [1]}).to_string();
    let headers = [("content-type", "application/json"), ("x-request-id", "mine")];
    stage.send("POST", "/v1/completions", &headers, &body).await
}

#[tokio::test]
async fn a_request_is_handed_on_as_it_came_and_ours_stay_here() {
    let other = server("other", Does::Answers).await;
    let stage = behind(&[&other]).await;
    let reply = ask(&stage, "llama").await;
    assert_eq!(reply.header("x-gateway-destination-endpoint-served"), other.address.to_string(),);
    assert_eq!(
        reply.ok(),
        json!({
            "from": "other", "model": "llama", "kept": [1], "authorization": "Bearer theirs",
            "request": "mine",
        })
    );
    let why = stage.get("/debug/placement/mine").await.ok();
    let decision = &why["decisions"][0];
    assert_eq!(decision["endpoint"], format!("default/other at {}", other.address));
    assert_eq!((&decision["model"], &decision["candidates"]), (&json!("llama"), &json!(1)));
    let ours = ask(&stage, MODEL).await.ok();
    assert_eq!(ours["choices"][0]["text"], "ours");
    assert_eq!(ask(&stage, "nobody's").await.status, 404);
    // An alias is told by its own name.
    let spec = json!({
        "modelName": "alias", "poolRef": {"name": "p"},
        "targetModels": [{"name": "llama", "weight": 1}],
    });
    stage.declare(Kind::InferenceModel, "alias", spec).await;
    let known = async {
        while ask(&stage, "alias").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("it is known in time");
    assert_eq!(ask(&stage, "alias").await.ok()["model"], "llama");
}

#[tokio::test]
async fn one_that_cannot_serve_is_passed_over_and_then_left_alone() {
    let (broken, good) =
        (server("broken", Does::IsUnavailable).await, server("good", Does::Answers).await);
    let stage = behind(&[&broken, &good]).await;
    for _ in 0..40 {
        assert_eq!(ask(&stage, "llama").await.ok()["from"], "good");
    }
    let asked = broken.state.asked.load(Ordering::Relaxed);
    assert!((1..=6).contains(&asked), "its breaker opens after three, asked {asked} times");
    drop(good);
    let (status, _, message, _) = ask(&stage, "llama").await.error();
    assert_eq!(status, 503);
    assert!(message.contains("`llama` could not be reached"), "{message}");
}

#[tokio::test]
async fn the_one_with_the_shorter_queue_is_taken() {
    let (busy, idle) = (server("busy", Does::Answers).await, server("idle", Does::Answers).await);
    busy.state.waiting.store(4, Ordering::Relaxed);
    let stage = behind(&[&busy, &idle]).await;
    let told = async {
        while ask(&stage, "llama").await.ok()["from"] != "idle" {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("its load is told in time");
    // The other way round, once that is told.
    busy.state.waiting.store(0, Ordering::Relaxed);
    idle.state.waiting.store(4, Ordering::Relaxed);
    let told = async {
        while ask(&stage, "llama").await.ok()["from"] != "busy" {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("its load is told in time");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_and_disturbs_nobody() {
    let (address, _task) = half_a_server().await;
    let url = format!("http://{address}");
    let file = json!({"endpoints": [{"name": "half", "url": url}]});
    let stage = behind_file(file).await;
    let body = json!({"model": "llama", "prompt": "x"}).to_string();
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: h\r\n{head}\r\n{body}");
    let mut stream = TcpStream::connect(stage.gateway.address()).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    // The connection ends, or the client would wait for the rest.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(read.is_ok(), "{text}");
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(HALF), "{text}");
    assert_eq!(ask(&stage, MODEL).await.status, 200);
}

/// The part of an answer that comes.
const HALF: &str = "{\"choices\": [";

/// A server that tells its models, and only the beginning of every answer.
async fn half_a_server() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let models = json!({"data": [{"id": "llama"}]}).to_string();
            let (length, body) = match head[..read].starts_with(b"POST") {
                true => (1000, HALF.to_owned()),
                false => (models.len(), models),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n");
            let answer = format!("{head}connection: close\r\n\r\n{body}");
            // Who asked may be gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, task)
}

/// Speaks TLS before a server, as `localhost` and signed by a CA, whose certificate it gives.
async fn behind_tls(server: &Server) -> (SocketAddr, String, JoinSet<()>) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let own = own.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key.into())
        .expect("they fit");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (address, to) = (listener.local_addr().expect("an address"), server.address);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // Who does not trust it ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut to = TcpStream::connect(to).await.expect("it is there");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    (address, ca_pem, task)
}

#[tokio::test]
async fn an_endpoint_behind_tls_is_trusted_by_its_ca_or_if_nobody_asks() {
    let server = server("secret", Does::Answers).await;
    let (address, ca, _task) = behind_tls(&server).await;
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).expect("it can be written");
    let url = format!("https://localhost:{}", address.port());
    let by_ca = json!({"name": "a", "url": url, "caFile": ca_file});
    let by_nothing = json!({"name": "a", "url": url, "insecureSkipVerify": true});
    for endpoint in [&by_ca, &by_nothing] {
        let stage = behind_file(json!({"endpoints": [endpoint]})).await;
        assert_eq!(ask(&stage, "llama").await.ok()["from"], "secret");
    }
    // No authority that browsers trust has signed it: the one beside it is all that is known.
    let plain = format!("http://{}", server.address);
    let untrusted = json!({"name": "a", "url": url, "labels": {}});
    let beside = json!({"name": "b", "url": plain});
    let before = server.state.asked.load(Ordering::Relaxed);
    let stage = behind_file(json!({"endpoints": [untrusted, beside]})).await;
    for _ in 0..4 {
        let reply = ask(&stage, "llama").await;
        assert_eq!(
            reply.header("x-gateway-destination-endpoint-served"),
            server.address.to_string(),
        );
    }
    assert_eq!(server.state.asked.load(Ordering::Relaxed), before + 4);
}

/// An `InferencePool` that names these servers, and how they are selected.
fn pool(servers: &[&Server]) -> Vec<u8> {
    let addresses: Vec<String> = servers.iter().map(|one| one.address.to_string()).collect();
    json!({
        "apiVersion": Kind::InferencePool.api_versions()[0],
        "kind": Kind::InferencePool.name(),
        "metadata": {
            "name": "theirs", "namespace": "default",
            "annotations": {"troupe.dev/endpoints": addresses.join(", ")},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "theirs"}}, "targetPorts": [{"number": 8000}],
        },
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn a_pool_names_endpoints_that_come_and_go_without_a_restart() {
    let (one, other) = (server("one", Does::Answers).await, server("other", Does::Answers).await);
    let stage = stage_with(vec![says("ours")], |_| {}).await;
    assert_eq!(ask(&stage, "llama").await.status, 404);
    let key = stage.keys.spec(Kind::InferencePool.name(), "default", "theirs");
    let until = async |wanted: &dyn Fn(u16, &Value) -> bool| {
        let reached = async {
            loop {
                let reply = ask(&stage, "llama").await;
                let from = serde_json::from_str::<Value>(&reply.text).unwrap_or_default();
                if wanted(reply.status, &from["from"]) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it is known in time");
    };
    stage.write(Op::Put(key.clone(), pool(&[&one]))).await;
    until(&|_, from| from == "one").await;
    // Another is there too, and then alone.
    stage.write(Op::Put(key.clone(), pool(&[&one, &other]))).await;
    until(&|_, from| from == "other").await;
    stage.write(Op::Put(key.clone(), pool(&[&other]))).await;
    until(&|_, from| from == "other").await;
    let asked = one.state.asked.load(Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(ask(&stage, "llama").await.ok()["from"], "other");
    }
    assert_eq!(one.state.asked.load(Ordering::Relaxed), asked, "it is in no pool any more");
    // A route to the pool leads there, and to nobody else.
    let backend = |name: &str| {
        let group = "inference.networking.k8s.io";
        json!([{"group": group, "kind": "InferencePool", "name": name}])
    };
    let rule = |path: &str, pool: &str| {
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"},
            }}],
            "backendRefs": backend(pool),
        })
    };
    let rules = [rule("/theirs", "theirs"), rule("/none", "none")];
    let spec = json!({"parentRefs": [{"name": "gateway"}], "rules": rules});
    stage.declare(Kind::HttpRoute, "paths", spec).await;
    let asked = async |path: &str, model: &str| {
        let body = json!({"model": model, "prompt": "x"});
        stage.post(path, body).await
    };
    let routed = async {
        while asked("/theirs/completions", "llama").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, routed).await.expect("it is known in time");
    assert_eq!(asked("/theirs/completions", "llama").await.ok()["from"], "other");
    assert_ne!(asked("/theirs/completions", MODEL).await.status, 200, "that is not in the pool");
    assert_eq!(asked("/none/completions", "llama").await.status, 503);
    stage.write(Op::Delete(key)).await;
    until(&|status, _| status == 404).await;
}
