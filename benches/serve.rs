//! What a client gets from the whole binary, over HTTP: time to the first token after a start,
//! tokens per second of one stream and of sixteen, and what a step costs beside its arithmetic.
//!
//! ```text
//! cargo bench --bench serve -- [--runs N] [--random-125m DIR] [--random-160m DIR] \
//!     [--args "-tp 2"] [MODEL_DIR...]
//! ```
//! The demo model is always measured: it is so small that a step of it is nearly all overhead.
//! `--random-125m DIR` writes a Llama of 125 million random bfloat16 parameters to DIR, unless it
//! is there already, and measures it too (`--random-160m`: one of 162 million), so that anyone can
//! make the numbers of the documentation
//! again. Every number stands as smallest, median and largest over the runs; a first run that warms
//! caches is not counted. The clients share the machine with the server.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

#[allow(dead_code)]
#[path = "../src/bench/checkpoint.rs"]
mod checkpoint;
#[allow(dead_code)]
#[path = "../tests/support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../tests/support/process.rs"]
mod process;
#[allow(dead_code, unused_imports)]
#[path = "../src/bench/random.rs"]
mod random;

use std::{
    path::{Path, PathBuf},
    sync::Barrier,
};

use serde_json::json;
use tokio::time::Instant;

use process::{Server, completion, tokens};

/// Tokens of prompt and of output of every stream.
const PROMPT: u32 = 32;
const OUTPUT: usize = 128;
const STREAMS: usize = 16;

fn main() {
    let asked = Asked::from_args(std::env::args().skip(1));
    println!("{STREAMS} streams of {PROMPT} + {OUTPUT} tokens, {} runs\n", asked.runs);
    for model in &asked.models {
        measure(model, &asked);
    }
}

struct Asked {
    runs: usize,
    args: Vec<String>,
    models: Vec<PathBuf>,
}

impl Asked {
    fn from_args(mut args: impl Iterator<Item = String>) -> Self {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo-model/model");
        let mut asked = Self { runs: 5, args: Vec::new(), models: vec![demo] };
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--runs" => asked.runs = value().parse().expect("--runs takes a number"),
                "--args" => asked.args = value().split_whitespace().map(str::to_owned).collect(),
                "--random-125m" | "--random-160m" => {
                    let folder = PathBuf::from(value());
                    let shape = match arg.as_str() {
                        "--random-125m" => checkpoint::Shape::M125,
                        _ => checkpoint::Shape::M160,
                    };
                    checkpoint::write(&shape, &folder).expect("the model can be written");
                    asked.models.push(folder);
                }
                folder => asked.models.push(folder.into()),
            }
        }
        asked
    }
}

fn measure(model: &Path, asked: &Asked) {
    let args: Vec<&str> = asked.args.iter().map(String::as_str).collect();
    let mut start = Vec::new();
    let mut server = None;
    for _ in 0..=asked.runs {
        // The one before has ended by then.
        drop(server.take());
        let began = Instant::now();
        let running = Server::serve(model, &args);
        running.complete(&prompt(0), 1);
        start.push(began.elapsed().as_secs_f64());
        server = Some(running);
    }
    let server = server.expect("at least one was started");
    let (mut one, mut many, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=asked.runs {
        let (alone, together) = (rate(&server, 1), rate(&server, STREAMS));
        one.push(alone);
        many.push(together);
        ratio.push(together / alone);
    }
    println!("{} {}", model.display(), asked.args.join(" "));
    let step: Vec<f64> = one.iter().map(|rate| 1e3 / rate).collect();
    print("start to first token, s", &start, 3);
    print("one stream, tokens/s", &one, 0);
    print("one stream, ms per token", &step, 3);
    print("sixteen streams, tokens/s", &many, 0);
    print("sixteen : one", &ratio, 2);
    println!();
}

/// Output tokens per second of all streams together: from the first token of the last stream to
/// begin, so that prompts do not count, to the end of the first to end, so that all are under way.
fn rate(server: &Server, streams: usize) -> f64 {
    let together = Barrier::new(streams);
    let told: Vec<Vec<(Instant, usize)>> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..streams)
            .map(|index| {
                let together = &together;
                scope.spawn(move || {
                    let prompt = prompt(index as u32);
                    together.wait();
                    stream(server, &prompt)
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    let from = told.iter().map(|told| told[0].0).max().expect("a stream");
    let to = told.iter().map(|told| told[told.len() - 1].0).min().expect("a stream");
    let within = |at: &&(Instant, usize)| at.0 > from && at.0 <= to;
    let count: usize = told.iter().flatten().filter(within).map(|(_, count)| count).sum();
    count as f64 / (to - from).as_secs_f64()
}

/// When tokens came, and how many.
fn stream(server: &Server, prompt: &[u32]) -> Vec<(Instant, usize)> {
    let mut body = completion(prompt, OUTPUT);
    body["stream"] = json!(true);
    let stream = http::stream(server.address, "/v1/completions", &body).expect("an answer");
    let mut told = Vec::new();
    for event in stream {
        match event {
            http::Event::Data(data) => {
                told.push((Instant::now(), tokens(&data["choices"][0]).len()));
            }
            http::Event::Done => {}
            http::Event::Broken(why) => panic!("the stream broke: {why}"),
        }
    }
    assert_eq!(told.iter().map(|(_, count)| count).sum::<usize>(), OUTPUT);
    told
}

/// No two streams share a prefix, and every model has these tokens.
fn prompt(stream: u32) -> Vec<u32> {
    (0..PROMPT).map(|position| 100 + (stream * 7 + position * 3) % 300).collect()
}

fn print(what: &str, runs: &[f64], digits: usize) {
    let mut runs = runs[1..].to_vec();
    runs.sort_by(f64::total_cmp);
    let (least, median, most) = (runs[0], runs[runs.len() / 2], runs[runs.len() - 1]);
    println!("  {what:<26} {least:>10.digits$} {median:>10.digits$} {most:>10.digits$}");
}
