//! Traces leave the process, and go on in the next one.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use troupe_runtime::telemetry::{
    LogFormat, TelemetryConfig, TelemetryError, current_traceparent, names::spans, set_parent,
    subscriber,
};

/// Longer than anything here takes on a busy machine: past it something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(endpoint: Option<String>) -> TelemetryConfig {
    TelemetryConfig {
        log_filter: "off".into(),
        otlp_endpoint: endpoint,
        service_name: "a-service-under-test".into(),
        ..TelemetryConfig::default()
    }
}

/// Reads one HTTP request: its first line, and its body.
fn read_request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut bytes = Vec::new();
    let head_end = loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).expect("the request comes");
        assert_ne!(read, 0, "the request is whole");
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .expect("the request says how long it is");
    let mut body = bytes.split_off(head_end);
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).expect("the body comes");
    (head.lines().next().expect("a head has a line").to_owned(), body)
}

#[test]
fn spans_are_exported_when_the_guard_is_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let (received, requests) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let request = read_request(&mut stream);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).expect("the exporter listens");
            if received.send(request).is_err() {
                return;
            }
        }
    });
    let (subscriber, guard) = subscriber(&config(Some(endpoint))).expect("it can be set up");
    tracing::subscriber::with_default(subscriber, || {
        let _entered = tracing::info_span!(spans::REQUEST, request = 7).entered();
        assert!(current_traceparent().is_some());
    });
    drop(guard);
    let (line, body) = requests.recv_timeout(PATIENCE).expect("the spans arrive");
    assert_eq!(line, "POST /v1/traces HTTP/1.1");
    let has = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("a-service-under-test") && has(spans::REQUEST), "it is protobuf with our names");
}

#[test]
fn a_collector_that_never_answers_does_not_hold_the_process() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let (done, waited) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let (subscriber, guard) = subscriber(&config(Some(endpoint))).expect("it can be set up");
        tracing::subscriber::with_default(subscriber, || {
            let _entered = tracing::info_span!("request").entered();
        });
        drop(guard);
        done.send(()).expect("the test waits");
    });
    waited.recv_timeout(PATIENCE).expect("the guard gives up");
    drop(listener);
}

#[test]
fn a_trace_goes_on_in_another_process() {
    // Nobody listens at this port; what is exported does not matter here.
    let process = || subscriber(&config(Some("http://127.0.0.1:1".into()))).expect("it is set up");
    let (gateway, _gateway_guard) = process();
    let (leader, _leader_guard) = process();
    let sent = tracing::subscriber::with_default(gateway, || {
        let _request = tracing::info_span!("request").entered();
        let _place = tracing::info_span!("place").entered();
        current_traceparent().expect("a trace has begun")
    });
    let went_on = tracing::subscriber::with_default(leader, || {
        let span = tracing::info_span!("generate");
        set_parent(&span, &sent);
        let _entered = span.entered();
        let _step = tracing::info_span!("step").entered();
        current_traceparent().expect("the trace goes on")
    });
    let trace = |traceparent: &str| traceparent.split('-').nth(1).map(str::to_owned);
    assert_eq!(sent.split('-').count(), 4, "{sent}");
    assert_eq!(trace(&sent), trace(&went_on));
    assert_ne!(sent, went_on, "the span is another");
}

#[test]
fn what_a_client_sends_as_a_traceparent_can_do_no_harm() {
    let (process, _guard) = subscriber(&config(Some("http://127.0.0.1:1".into()))).expect("it is");
    tracing::subscriber::with_default(process, || {
        let zero = "00-00000000000000000000000000000000-0000000000000000-01";
        for text in ["", "x", "00-12-34-01", zero, &"-".repeat(100_000), "00-é-é-01"] {
            let span = tracing::info_span!("request");
            set_parent(&span, text);
            let _entered = span.entered();
            let own = current_traceparent().expect("it has a trace of its own");
            assert!(!own.contains(&"0".repeat(32)), "{text}: {own}");
        }
    });
}

#[test]
fn without_a_collector_there_are_no_traces() {
    let json = TelemetryConfig { log_format: LogFormat::Json, ..config(None) };
    let (process, _guard) = subscriber(&json).expect("it can be set up");
    tracing::subscriber::with_default(process, || {
        let span = tracing::info_span!("request");
        set_parent(&span, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let _entered = span.entered();
        assert_eq!(current_traceparent(), None);
    });
}

#[test]
fn a_wrong_setting_is_named() {
    let wrong = TelemetryConfig { log_filter: "troupe=loud".into(), ..config(None) };
    let Err(error) = subscriber(&wrong) else { panic!("there is no such level") };
    assert!(matches!(&error, TelemetryError::Filter { filter, .. } if filter == "troupe=loud"));
    let Err(error) = subscriber(&config(Some("not a url".into()))) else { panic!("it is no URL") };
    assert!(matches!(error, TelemetryError::Endpoint { .. }), "{error}");
}
