//! Clients that stream one answer after the other for as long as faults are played, and write down
//! when each token came and whether it was the right one.
//!
//! Each has a gateway of its own. When that is gone the client goes to the other one, as any
//! client with two addresses does, and asks again what broke off.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    golden, http,
    process::{completion, tokens},
};

/// One request as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) client: usize,
    /// Which gateway answered it, or broke off.
    pub(crate) gateway: usize,
    pub(crate) asked: Instant,
    /// When tokens came.
    pub(crate) told: Vec<Instant>,
    pub(crate) ended: Instant,
    /// How it failed, if it did.
    pub(crate) failed: Option<String>,
    /// Tokens that were others than the right ones, or too many.
    pub(crate) wrong: usize,
}

/// What a client asks, again and again.
#[derive(Clone)]
struct Question {
    body: Value,
    /// Asked under another salt each time, so that nobody has its blocks yet.
    salted: bool,
    right: Vec<u32>,
}

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    end: AtomicBool,
    salts: AtomicUsize,
    done: Mutex<Vec<Asked>>,
}

impl Load {
    /// Two clients for each gateway that ask `x`, one of them with chance, and one that asks `p`.
    pub(crate) fn start(gateways: &[SocketAddr]) -> Self {
        let shared = Arc::new(Shared {
            end: AtomicBool::new(false),
            salts: AtomicUsize::new(0),
            done: Mutex::default(),
        });
        let questions = questions(gateways[0]);
        let of = |number: usize| {
            let (home, question) = (number % gateways.len(), number / gateways.len());
            let question = questions[question].clone();
            let (shared, gateways) = (Arc::clone(&shared), gateways.to_vec());
            std::thread::spawn(move || {
                while !shared.end.load(Ordering::Relaxed) {
                    shared.stream(number, &question, &gateways, home);
                }
            })
        };
        let clients = (0..questions.len() * gateways.len()).map(of).collect();
        Self { shared, clients }
    }

    /// Whether every client has got all of an answer that it asked for after a time.
    pub(crate) fn answered_since(&self, since: Instant) -> bool {
        let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        (0..self.clients.len())
            .all(|client| done.iter().any(|asked| asked.client == client && asked.asked > since))
    }

    /// What has ended since this was asked last.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Shared {
    /// One request, from asking to its end; at another gateway if this one is not there.
    fn stream(&self, client: usize, question: &Question, gateways: &[SocketAddr], home: usize) {
        let mut body = question.body.clone();
        if question.salted {
            body["cache_salt"] = json!(self.salts.fetch_add(1, Ordering::Relaxed).to_string());
        }
        let asked = Instant::now();
        for gateway in (0..gateways.len()).map(|next| (home + next) % gateways.len()) {
            let mut told = Vec::new();
            let mut got = Vec::new();
            let failed = match http::stream(gateways[gateway], "/v1/completions", &body) {
                // It was accepted by nobody.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => Some(error.to_string()),
                Ok(stream) if stream.status != 200 => Some(format!("status {}", stream.status)),
                Ok(stream) => heard(stream, &mut told, &mut got),
            };
            let pairs = got.iter().zip(&question.right);
            let more = got.len().saturating_sub(question.right.len());
            let wrong = pairs.filter(|(got, right)| got != right).count() + more;
            let short = got.len() < question.right.len();
            let failed = failed.or_else(|| short.then(|| "it ended too early".to_owned()));
            let ended = Instant::now();
            let asked = Asked { client, gateway, asked, told, ended, failed, wrong };
            self.done.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
            return;
        }
        pause();
    }
}

/// Reads to the end; how it failed, if it did.
fn heard(stream: http::Stream, told: &mut Vec<Instant>, got: &mut Vec<u32>) -> Option<String> {
    for event in stream {
        match event {
            http::Event::Data(data) if data["choices"].is_array() => {
                let now = Instant::now();
                let tokens = tokens(&data["choices"][0]);
                if !tokens.is_empty() {
                    told.push(now);
                    got.extend(tokens);
                }
            }
            http::Event::Data(data) => return Some(data.to_string()),
            http::Event::Done => return None,
            http::Event::Broken(why) => return Some(why),
        }
    }
    Some("it ended without a word".into())
}

/// What is asked, with the answers that it has when nothing is wrong.
fn questions(gateway: SocketAddr) -> Vec<Question> {
    let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
    let of = |number: usize, name: &str| -> Vec<u32> {
        let tokens = golden["prompts"][number][name].clone();
        serde_json::from_value(tokens).expect("tokens")
    };
    let ask = |model: &str, prompt: usize| {
        let mut body = completion(&of(prompt, "ids"), LENGTH);
        (body["model"], body["stream"]) = (json!(model), json!(true));
        body
    };
    let with_chance = |mut body: Value| {
        (body["temperature"], body["seed"]) = (json!(1.0), json!(7));
        body
    };
    // More than a block of the last is computed apart.
    let bodies = [(ask("x", 1), false), (with_chance(ask("x", 2)), false), (ask("p", 2), true)];
    let question = |(body, salted): (Value, bool)| {
        let mut right = Vec::new();
        let stream = http::stream(gateway, "/v1/completions", &body).expect("an answer");
        let failed = heard(stream, &mut Vec::new(), &mut right);
        assert!(failed.is_none() && right.len() == LENGTH, "{failed:?} {body}");
        Question { body, salted, right }
    };
    let questions: Vec<_> = bodies.map(question).into();
    for (question, prompt) in [(0, 1), (2, 2)] {
        let golden = of(prompt, "greedy_ids");
        assert!(golden.starts_with(&questions[question].right), "as golden");
    }
    questions
}

#[expect(clippy::disallowed_methods, reason = "no gateway answers: as long as a client waits")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Tokens of an answer.
const LENGTH: usize = 40;
