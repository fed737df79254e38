//! What a gateway costs: processor time per request, requests per second, and the time that it
//! adds.
//!
//! ```text
//! cargo bench --bench gateway -- [--seconds N] [--endpoints N] [--core N] [--only TEXT]
//! ```
//! `--core` keeps the gateway on that core and starts it there, so that it has threads for one;
//! clients and workers are best kept off it (`taskset`). `--only` leaves out all cases but those
//! with the text in their names.
//!
//! Requests go over HTTP with connections that are kept, through the real binary, to workers in
//! this process that answer at once with a fixed text. The gateway does for them what it does
//! for all foreign endpoints: keys, routes, flow control, guessed prefixes, placement,
//! scraping; it does not tokenize. The last case is of an endpoint of its own, in another
//! process, with tokenizing, and with prompts that the endpoint has cached.
//!
//! Clients and workers share the machine with the gateway, so that its own processor time is
//! what counts: `cpu` is user and system time of its process, all threads, idle work included,
//! divided by the requests. `of a core` is how many a core serves in a second of its time, 1 s /
//! `cpu`: on a machine that does other things too it says more than the requests that came by.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

#[allow(dead_code)]
#[path = "../tests/support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../tests/support/process.rs"]
mod process;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use process::Server;

/// What workers answer.
const ANSWER: &str = r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"mock",
"choices":[{"index":0,"text":" ok","logprobs":null,"finish_reason":"length"}],
"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
/// Clock ticks of `/proc/PID/stat` in a second, on every Linux that there is.
const TICKS: f64 = 100.0;

/// How requests are sent.
#[derive(Clone, Copy)]
enum Pace {
    /// Each connection sends the next when it has its answer.
    AsFastAsItGoes,
    /// So many a second, whatever becomes of them.
    PerSecond(u32),
}

/// What is measured.
struct Plan {
    endpoints: usize,
    /// For each.
    time: Duration,
    /// The gateway's own core.
    core: Option<String>,
    /// What is in the names of those cases that are measured.
    only: String,
}

/// What came of it.
struct Measured {
    requests: usize,
    seconds: f64,
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
}

fn main() {
    let (mut seconds, mut endpoints, mut core, mut only) = (5.0, 10, None, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--seconds" => seconds = value().parse().expect("--seconds takes a number"),
            "--endpoints" => endpoints = value().parse().expect("--endpoints takes a number"),
            "--core" => core = Some(value()),
            "--only" => only = value(),
            other => panic!("{other} is not known; see the top of benches/gateway.rs"),
        }
    }
    let runtime = Runtime::new().expect("a runtime");
    println!("{endpoints} workers, {seconds} s for each\n");
    println!(
        "{:<34}{:>10}{:>12}{:>12}{:>10}{:>10}{:>10}",
        "", "req/s", "cpu, us/req", "of a core/s", "p50, ms", "p95, ms", "p99, ms"
    );
    let plan = Plan { endpoints, time: Duration::from_secs_f64(seconds), core, only };
    runtime.block_on(foreign(&plan));
    runtime.block_on(own(&plan));
}

impl Plan {
    fn has(&self, what: &str) -> bool {
        what.contains(&self.only)
    }

    fn serve(&self, args: &[&str]) -> Server {
        let under = self.core.as_ref().map(|core| ["taskset", "-c", core]);
        Server::serve_under(under.as_ref().map_or(&[], |under| under), &demo(), args)
    }
}

async fn foreign(plan: &Plan) {
    let time = plan.time;
    let mut workers = JoinSet::new();
    let mut addresses = Vec::new();
    for _ in 0..plan.endpoints {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        addresses.push(listener.local_addr().expect("an address"));
        workers.spawn(work(listener));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("endpoints.yaml");
    let list: Vec<Value> = (0..)
        .zip(&addresses)
        .map(|(at, address): (u32, _)| {
            json!({"name": format!("w{at}"), "url": format!("http://{address}")})
        })
        .collect();
    fs::write(&file, json!({"endpoints": list}).to_string()).expect("it can be written");
    let file = file.display().to_string();
    let server = plan.serve(&["--foreign-endpoints", &file]);
    let known =
        || http::get(server.address, "/v1/models").is_ok_and(|told| told.text.contains("mock"));
    process::until("the workers are known", known);
    let text = |bytes: usize| "word ".repeat(bytes / 5);
    let request =
        |prompt: &str| json!({"model": "mock", "prompt": prompt, "max_tokens": 1}).to_string();
    let (tiny, short, long) = (request("hi"), request(&text(800)), request(&text(400_000)));
    let idle = cpu(&server);
    tokio::time::sleep(time).await;
    let idle = (cpu(&server) - idle) / time.as_secs_f64() * 1000.0;
    for (what, body, connections, pace) in [
        ("tiny, as fast as it goes", &tiny, 32, Pace::AsFastAsItGoes),
        ("200 tokens, as fast as it goes", &short, 32, Pace::AsFastAsItGoes),
        ("200 tokens, 500/s", &short, 64, Pace::PerSecond(500)),
        ("100,000 tokens, as fast as it goes", &long, 4, Pace::AsFastAsItGoes),
        ("100,000 tokens, 20/s", &long, 16, Pace::PerSecond(20)),
    ] {
        if !plan.has(what) {
            continue;
        }
        report(what, server.address, &server, body, (connections, pace, time)).await;
        if let Pace::PerSecond(_) = pace {
            let direct = send(addresses[0], body, (connections, pace, time)).await;
            line("  the same without a gateway", &direct, None);
        }
    }
    println!("{:<34}{idle:>10.1} ms of processor time a second\n", "idle, scraping the workers");
}

/// An endpoint of the gateway's own, of the demo model.
async fn own(plan: &Plan) {
    let what = "own, 200 tokens, tokenized";
    if !plan.has(what) {
        return;
    }
    let server = plan.serve(&["--rank-processes"]);
    let prompt = "What is the capital of France? ".repeat(25);
    let body = json!({"model": "m", "prompt": prompt, "max_tokens": 1}).to_string();
    let how = (16, Pace::AsFastAsItGoes, plan.time);
    report(what, server.address, &server, &body, how).await;
}

async fn report(
    what: &str,
    address: SocketAddr,
    server: &Server,
    body: &str,
    how: (usize, Pace, Duration),
) {
    // Connections, threads and caches are warm.
    let (connections, pace, time) = how;
    send(address, body, (connections, pace, time / 5)).await;
    let before = cpu(server);
    let measured = send(address, body, how).await;
    line(what, &measured, Some(cpu(server) - before));
}

fn line(what: &str, measured: &Measured, cpu: Option<f64>) {
    let Measured { requests, seconds, latencies } = measured;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let each = cpu.map(|cpu| cpu / *requests as f64);
    let text = |number: Option<f64>| number.map_or_else(String::new, |some| format!("{some:.1}"));
    let (cpu, of_a_core) = (text(each.map(|each| each * 1e6)), text(each.map(|each| 1.0 / each)));
    println!(
        "{what:<34}{:>10.0}{cpu:>12}{of_a_core:>12}{:>10.3}{:>10.3}{:>10.3}",
        *requests as f64 / seconds,
        at(0.5),
        at(0.95),
        at(0.99)
    );
}

/// Sends requests until the time is over.
async fn send(
    address: SocketAddr,
    body: &str,
    (connections, pace, time): (usize, Pace, Duration),
) -> Measured {
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let request: std::sync::Arc<[u8]> = head.into_bytes().into();
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for number in 0..connections {
        let request = request.clone();
        clients.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("it listens");
            stream.set_nodelay(true).expect("a socket");
            let mut stream = BufReader::new(stream);
            let mut latencies = Vec::new();
            for turn in 0.. {
                let due = match pace {
                    Pace::AsFastAsItGoes => Instant::now(),
                    Pace::PerSecond(rate) => {
                        let at = (turn * connections + number) as f64 / f64::from(rate);
                        began + Duration::from_secs_f64(at)
                    }
                };
                if due.saturating_duration_since(began) >= time {
                    break;
                }
                sleep_until(due).await;
                stream.write_all(&request).await.expect("it reads");
                let status = read(&mut stream).await.expect("it answers").0;
                assert!(status.contains(" 200 "), "{status}");
                latencies.push(due.elapsed().as_secs_f64() * 1000.0);
            }
            latencies
        });
    }
    let mut latencies: Vec<f64> = clients.join_all().await.into_iter().flatten().collect();
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Measured { requests: latencies.len(), seconds, latencies }
}

/// The first line of a message and its body; none at the connection's end.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

/// A worker: it lists its model, tells its load, and answers everything else at once.
async fn work(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        connections.spawn(async move {
            let mut stream = BufReader::new(stream);
            while let Some((first, _)) = read(&mut stream).await {
                let body = match first.split(' ').nth(1) {
                    Some("/v1/models") => r#"{"data": [{"id": "mock"}]}"#,
                    Some("/metrics") => {
                        "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
                    }
                    _ => ANSWER,
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     \r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Seconds of processor time that the server's process has used; not those of its members.
fn cpu(server: &Server) -> f64 {
    let path = format!("/proc/{}/stat", server.troupe.id());
    let stat = fs::read_to_string(path).expect("it runs");
    // Behind the name, which may have spaces: the 12th and 13th are user and system time.
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS
}

fn demo() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo-model/model")
}
