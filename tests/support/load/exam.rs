//! Questions whose answers are known: what a service says when nothing happens to it. Asked again
//! while something does, every answer has to be the same, token for token and letter for letter.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::http;

/// Questions, and what is said to each.
#[derive(Debug)]
pub(crate) struct Exam {
    questions: Vec<Question>,
    answers: Vec<Said>,
}

/// What is asked, of which path.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) path: &'static str,
    /// It has to ask for a stream with tokens and usage.
    pub(crate) body: Value,
}

/// All that a stream says that may not differ.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    choices: BTreeMap<u64, Choice>,
    usage: Value,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Choice {
    tokens: Vec<u32>,
    text: String,
    finish: String,
}

/// What came of a stream.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) outcome: Outcome,
    /// From the request to the first event.
    pub(crate) first: Duration,
    /// The longest time without an event, the first one's among them.
    pub(crate) pause: Duration,
    /// From the request to the end.
    pub(crate) took: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With the very answer.
    Right,
    /// In order, with another one.
    Wrong(String),
    /// It was turned away.
    Refused(http::Answer),
    /// Without an end.
    Lost(String),
}

// === impl Exam ===

impl Exam {
    /// These questions, answered by whoever serves there, so many at a time.
    pub(crate) fn taken(address: SocketAddr, questions: Vec<Question>, at_a_time: usize) -> Self {
        let mut answers = vec![Said::default(); questions.len()];
        // What a group computes does not depend on who else asks.
        let rounds = questions.chunks(at_a_time).zip(answers.chunks_mut(at_a_time));
        for (questions, answers) in rounds {
            std::thread::scope(|scope| {
                for (question, answer) in questions.iter().zip(answers) {
                    scope.spawn(move || {
                        let (said, ..) = hear(address, question, || true);
                        *answer = said.expect("nothing disturbs it");
                    });
                }
            });
        }
        Self { questions, answers }
    }

    /// Asks one of them; it is told as [`Outcome::Lost`] if `go_on` says no before its end.
    pub(crate) fn ask(
        &self,
        address: SocketAddr,
        number: usize,
        go_on: impl FnMut() -> bool,
    ) -> Asked {
        self.ask_with(address, number, &Value::Null, go_on)
    }

    /// The same with more fields, which change no token.
    pub(crate) fn ask_with(
        &self,
        address: SocketAddr,
        number: usize,
        more: &Value,
        go_on: impl FnMut() -> bool,
    ) -> Asked {
        let number = number % self.questions.len();
        let mut question = self.questions[number].clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            question.body[name] = value.clone();
        }
        let began = Instant::now();
        let (said, first, pause) = hear(address, &question, go_on);
        let took = began.elapsed();
        let answer = &self.answers[number];
        let outcome = match said {
            Ok(said) if said == *answer => Outcome::Right,
            Ok(said) => Outcome::Wrong(format!("question {number}: {said:?} is not {answer:?}")),
            Err(Failed::Refused(answer)) => Outcome::Refused(answer),
            Err(Failed::Lost(why)) => Outcome::Lost(format!("question {number}: {why}")),
        };
        Asked { outcome, first, pause, took }
    }
}

#[derive(Debug)]
enum Failed {
    Refused(http::Answer),
    Lost(String),
}

/// Reads a stream to its end.
fn hear(
    address: SocketAddr,
    question: &Question,
    mut go_on: impl FnMut() -> bool,
) -> (Result<Said, Failed>, Duration, Duration) {
    let began = Instant::now();
    let (mut first, mut pause, mut last) = (None, Duration::ZERO, began);
    let mut said = Said::default();
    let mut end = Err(Failed::Lost("it ended without a word".into()));
    match http::stream(address, question.path, &question.body) {
        Err(error) => end = Err(Failed::Lost(format!("no answer: {error}"))),
        Ok(stream) if stream.status != 200 => {
            end = Err(match stream.whole() {
                Ok(answer) => Failed::Refused(answer),
                Err(error) => Failed::Lost(format!("a refusal without an end: {error}")),
            });
        }
        Ok(stream) => {
            for event in stream {
                pause = pause.max(last.elapsed());
                last = Instant::now();
                first.get_or_insert_with(|| began.elapsed());
                match event {
                    http::Event::Data(data) if data["choices"].is_array() => said.hear(&data),
                    http::Event::Data(data) => {
                        end = Err(Failed::Lost(format!("an error: {data}")));
                        break;
                    }
                    http::Event::Done => {
                        end = Ok(());
                        break;
                    }
                    http::Event::Broken(why) => {
                        end = Err(Failed::Lost(format!("it broke: {why}")));
                        break;
                    }
                }
                if !go_on() {
                    end = Err(Failed::Lost("nobody listens any more".into()));
                    break;
                }
            }
        }
    }
    pause = pause.max(last.elapsed());
    (end.map(|()| said), first.unwrap_or_else(|| began.elapsed()), pause)
}

impl Said {
    fn hear(&mut self, data: &Value) {
        if !data["usage"].is_null() {
            // Not what of it was cached, which depends on who was asked before.
            let usage = &data["usage"];
            self.usage = json!([usage["prompt_tokens"], usage["completion_tokens"]]);
        }
        for heard in data["choices"].as_array().into_iter().flatten() {
            let choice = self.choices.entry(heard["index"].as_u64().unwrap_or(0)).or_default();
            let tokens = heard["token_ids"].as_array().into_iter().flatten();
            choice.tokens.extend(tokens.filter_map(Value::as_u64).map(|id| id as u32));
            let text = heard["text"].as_str().or(heard["delta"]["content"].as_str());
            choice.text += text.unwrap_or_default();
            choice.finish += heard["finish_reason"].as_str().unwrap_or_default();
        }
    }
}

// === impl Question ===

impl Question {
    /// A text to go on with so many tokens: greedy if its number is even, else sampled with a seed.
    pub(crate) fn text(number: usize, prompt: usize, tokens: usize) -> Self {
        let mut body = json!({
            "model": "m", "prompt": Self::prompt(number, prompt), "max_tokens": tokens,
            "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true,
            "return_token_ids": true, "temperature": 0,
        });
        if number % 2 == 1 {
            (body["temperature"], body["seed"]) = (json!(1.0), json!(number));
        }
        Self { path: "/v1/completions", body }
    }

    /// Short ones of different lengths.
    pub(crate) fn texts(count: usize, tokens: usize) -> Vec<Self> {
        (0..count).map(|number| Self::text(number, 16 + number * 7 % 48, tokens)).collect()
    }

    /// Several prompts at once, of each of which two choices are wanted.
    pub(crate) fn batch(number: usize, tokens: usize) -> Self {
        let mut question = Self::text(2 * number + 1, 0, tokens);
        let prompts = (0..4).map(|prompt| Self::prompt(1000 + number * 4 + prompt, 24));
        question.body["prompt"] = prompts.collect();
        question.body["n"] = json!(2);
        question
    }

    /// An answer that has to follow a schema.
    pub(crate) fn schema(number: usize, tokens: usize) -> Self {
        let schema = json!({"type": "array", "items": {"type": "integer"}, "minItems": 40});
        let mut question = Self::text(2 * number + 1, 0, tokens);
        question.path = "/v1/chat/completions";
        let fields = question.body.as_object_mut().expect("it is an object");
        fields.remove("prompt");
        fields.remove("ignore_eos");
        let said = format!("What is the weather in place {number}?");
        question.body["messages"] = json!([{"role": "user", "content": said}]);
        let schema = json!({"name": "n", "schema": schema});
        question.body["response_format"] = json!({"type": "json_schema", "json_schema": schema});
        question
    }

    /// Tokens that no other question has in this order.
    fn prompt(number: usize, length: usize) -> Vec<usize> {
        (0..length).map(|at| 10 + (at * 37 + number * 101 + at * number) % 200).collect()
    }
}
