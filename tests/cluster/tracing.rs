//! One trace from a client's request down to every stage, as a collector receives it.
//!
//! The collector is the test itself: a listener that takes OTLP over HTTP and keeps the spans. Each
//! stage is a process of its own here and exports by itself, so what is tested is that the trace
//! travels in our messages and not in one process's memory.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value, trace::v1::Span,
};
use prost::Message;
use serde_json::json;

use crate::{
    golden, http,
    process::{Server, until},
};

#[test]
fn a_trace_reaches_from_the_client_to_every_stage() {
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let model = golden::model("tiny-chat").expect("both sets have it");
    let args = ["-pp", "2", "--stage-processes", "--otlp-traces-endpoint", &endpoint];
    let server = Server::serve(&model, &args);

    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
    });
    let traceparent = format!("traceparent: 00-{TRACE}-{CLIENT}-01");
    let answer = http::post_with(server.address, CHAT, &traceparent, &body);
    answer.expect("an answer").ok();
    http::post(server.address, CHAT, &body).expect("an answer").ok();

    let spans = || collector.spans.lock().expect("nobody panicked").clone();
    let count = |name| spans().iter().filter(|found| found.span.name == name).count();
    until("all spans of both requests are exported", || {
        let requests = spans().iter().filter(|found| found.is_chat()).count();
        requests == 2 && count("generate") == 2 && count("stage") >= 4
    });
    let spans = spans();
    let requests = spans.iter().filter(|found| found.is_chat());
    let (joined, own): (Vec<&Found>, Vec<&Found>) =
        requests.partition(|found| hex(&found.span.trace_id) == TRACE);
    assert_eq!((joined.len(), own.len()), (1, 1), "{spans:#?}");
    assert_eq!(hex(&joined[0].span.parent_span_id), CLIENT);
    // Who brings no trace begins one.
    assert_eq!(hex(&own[0].span.parent_span_id), "");
    check(joined[0], &spans);
    check(own[0], &spans);
}

/// That a request's spans hang together, and come from other processes than its own.
fn check(request: &Found, spans: &[Found]) {
    let trace: Vec<_> =
        spans.iter().filter(|found| found.span.trace_id == request.span.trace_id).collect();
    let named = |name| trace.iter().filter(move |found| found.span.name == name);
    let generate: Vec<_> = named("generate").collect();
    assert_eq!(generate.len(), 1, "{trace:#?}");
    assert_eq!(generate[0].span.parent_span_id, request.span.span_id, "{trace:#?}");
    let above = [&request.span.span_id, &generate[0].span.span_id];
    let stages: Vec<_> = named("stage").collect();
    assert!(stages.iter().all(|stage| above.contains(&&stage.span.parent_span_id)), "{trace:#?}");
    let ranks: BTreeSet<_> = stages.iter().map(|stage| stage.attribute("rank")).collect();
    assert_eq!(ranks.len(), 2, "{trace:#?}");

    // A connection has one process at its other end: gateway, stage 0, stage 1.
    let connections =
        |found: &[&&Found]| -> BTreeSet<_> { found.iter().map(|found| found.connection).collect() };
    assert!(!connections(&stages).contains(&request.connection), "{trace:#?}");
    assert_eq!(connections(&stages).len(), 2, "{trace:#?}");
}

/// A span as it came in.
#[derive(Clone, Debug)]
struct Found {
    connection: SocketAddr,
    span: Span,
}

impl Found {
    /// Whether it is a client's request; whoever waits for the server to be ready asks as well.
    fn is_chat(&self) -> bool {
        self.span.name == "request" && self.attribute("path").as_deref() == Some(CHAT)
    }

    fn attribute(&self, key: &str) -> Option<String> {
        let found = self.span.attributes.iter().find(|attribute| attribute.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }
}

/// What takes spans at `/v1/traces` and keeps them. Its threads end with the test's process.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Found>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let spans = Arc::clone(&kept);
                thread::spawn(move || take(socket, &spans));
            }
        });
        Self { address, spans }
    }
}

/// Takes exports from one connection until it ends.
fn take(socket: TcpStream, spans: &Mutex<Vec<Found>>) {
    let connection = socket.peer_addr().expect("it is connected");
    let mut reader = BufReader::new(&socket);
    while let Some((head, body)) = read_request(&mut reader) {
        assert!(head.starts_with("post /v1/traces "), "{head}");
        let export = ExportTraceServiceRequest::decode(body.as_slice()).expect("it is OTLP");
        let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        let found = scopes.flat_map(|scope| scope.spans).map(|span| Found { connection, span });
        spans.lock().expect("nobody panicked").extend(found);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if (&socket).write_all(answer).is_err() {
            return;
        }
    }
}

/// A request's head, in lower case, and its body; none at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length?.trim().parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
