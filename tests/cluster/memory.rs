//! What processes hold in memory has a bound that can be said beforehand (`docs/reliability.md`,
//! "Memory"), and clients that do not read, that send much and slowly, that only connect, or that
//! name ever new tenants, models and paths do not get beyond it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use serde_json::{Value, json};

use crate::{
    http,
    load::{exam::Question, fleet::Fleet, usage::Usage},
    process::until,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Of a gateway: without a client, for each connection, for each stream that nobody reads (what is
/// written ahead, and as much on its way there), and for each byte of a body that has not come
/// whole.
const GATEWAY: u64 = 160 * MIB;
const CONNECTION: u64 = 64 * KIB;
const UNREAD: u64 = 384 * KIB;
const OF_BODY: u64 = 2;
/// Of a node, and of a controller, with what of the binary they have read.
const NODE: u64 = 128 * MIB;
/// Of a member beside weights and KV, and for each token that nobody has read (5 alternatives).
const MEMBER: u64 = 160 * MIB;
const TOKEN: u64 = 512;
/// What the model of this test needs on each stage, and what it is given for KV.
const WEIGHTS: u64 = 8 * MIB;
const KV: u64 = 64 * MIB;

const STREAMS: usize = 96;
const TOKENS: usize = 1000;
const BODIES: usize = 12;
const SENT: usize = 8 << 20;
const IDLE: usize = 300;
const NAMES: usize = 1500;

#[test]
fn no_client_makes_a_process_hold_more_than_is_said() {
    let kv = format!("--kv-cache-memory-bytes={KV}");
    let fleet = Fleet::start(1, &[&kv, "--max-num-seqs=96"], &[]);
    let address = fleet.address;
    let usage = |who: &str, id: u32| Usage::of(id).unwrap_or_else(|| panic!("{who} is there"));
    let gateway = fleet.processes()[1].1;
    let members = fleet.members(&fleet.groups()[0]);
    let hold = |what: &str, gateways: u64| {
        let held = usage("the gateway", gateway);
        eprintln!("{what}: {} of {} MiB", held.resident / MIB, gateways / MIB);
        assert!(held.peak <= gateways, "{what}: the gateway had {} MiB", held.peak / MIB);
        let member = MEMBER + WEIGHTS + KV + STREAMS as u64 * TOKENS as u64 * TOKEN;
        for id in &members {
            let held = usage("a member", *id);
            eprintln!("  a member: {} of {} MiB", held.peak / MIB, member / MIB);
            assert!(held.peak <= member, "{what}: a member had {} MiB", held.peak / MIB);
        }
        for (name, id) in fleet.processes() {
            let held = usage(&name, id);
            let most = if name == "gateway" { gateways } else { NODE };
            assert!(held.peak <= most, "{what}: {name} had {} MiB", held.peak / MIB);
        }
    };
    hold("nobody", GATEWAY);

    let connect = || TcpStream::connect(address).expect("it takes connections");
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect()).collect();
    let mut most = GATEWAY + IDLE as u64 * CONNECTION;
    hold("connections", most);

    // Answers with much beside their text, of which nobody reads a byte.
    let done = || fleet.counted("vllm:generation_tokens_total{").iter().sum::<f64>();
    let unread: Vec<TcpStream> =
        (0..STREAMS).map(|number| send(address, &unread(number))).collect();
    most += STREAMS as u64 * (CONNECTION + UNREAD);
    until("all have begun", || {
        fleet.counted("vllm:num_requests_running{").iter().sum::<f64>() >= STREAMS as f64
            || done() >= (STREAMS * TOKENS) as f64 * 0.5
    });
    hold("streams that nobody reads", most);

    let bodies: Vec<TcpStream> = thread::scope(|scope| {
        let send = |_| scope.spawn(|| half_a_body(address));
        let sent: Vec<_> = (0..BODIES).map(send).collect();
        sent.into_iter().map(|sent| sent.join().expect("it is sent")).collect()
    });
    most += BODIES as u64 * (CONNECTION + OF_BODY * SENT as u64);
    hold("bodies that do not end", most);
    drop((idle, unread, bodies));
    until("nobody is left", || {
        fleet.counted("vllm:num_requests_running{").iter().sum::<f64>() == 0.0
    });

    // The second time everything that grows with names is there.
    let (first, lines) = (names(address, 0), lines(address));
    let before = usage("the gateway", gateway).resident;
    let second = names(address, NAMES);
    let after = usage("the gateway", gateway).resident;
    eprintln!("names: {} MiB, then {} MiB; {lines} lines", before / MIB, after / MIB);
    assert_eq!((first, second), (NAMES, NAMES), "each is answered");
    assert_eq!(self::lines(address), lines, "no name makes a series");
    assert!(after <= before.max(most) && after < before + 16 * MIB, "names are forgotten");
    hold("names", most);
}

/// Sends a request and does not read.
fn send(address: SocketAddr, body: &Value) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("it takes connections");
    let body = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("it reads");
    socket
}

fn unread(number: usize) -> Value {
    let mut question = Question::text(number, 24, TOKENS);
    question.body["logprobs"] = json!(5);
    question.body
}

/// Eight MiB of a body that is twice as long, and no more.
fn half_a_body(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("it takes connections");
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{{\"model\": \"m\", \"prompt\": \"",
        2 * SENT
    );
    socket.write_all(head.as_bytes()).expect("it reads");
    socket.write_all(&vec![b'a'; SENT - 64]).expect("it reads");
    socket
}

/// Asks as ever new tenants, for ever new models and paths, over one connection; how many were
/// answered.
fn names(address: SocketAddr, from: usize) -> usize {
    let mut socket = TcpStream::connect(address).expect("it takes connections");
    let mut answered = 0;
    for number in from..from + NAMES {
        let (path, model) = match number % 3 {
            0 => ("/v1/completions".to_owned(), "m".to_owned()),
            1 => ("/v1/completions".to_owned(), format!("model-{number}")),
            _ => (format!("/n{number}/s{number}/v1/completions"), "m".to_owned()),
        };
        let body = json!({"model": model, "prompt": [1, 2, 3], "max_tokens": 1}).to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: h{number}\r\ncontent-type: application/json\r\n\
             x-request-id: r{number}\r\nx-llm-d-inference-fairness-id: tenant-{number}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).expect("it reads");
        answered += usize::from(read_answer(&mut socket));
    }
    answered
}

/// Reads an answer of a known length, as all of these are; whether its status is one that was
/// expected.
fn read_answer(socket: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    socket.read_exact(&mut body).is_ok()
        && [" 200 ", " 404 "].iter().any(|code| head.contains(code))
}

fn lines(address: SocketAddr) -> usize {
    http::get(address, "/metrics").map_or(0, |answer| answer.text.lines().count())
}
