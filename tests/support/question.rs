//! One question whose answer is known, for tests of what happens around it: tokens after a prompt
//! of the model `tiny-qwen2`, and how a service declares that model.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{completion, tokens},
};

/// A prompt, and the tokens that come after it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) prompt: Vec<u32>,
    pub(crate) golden: Vec<u32>,
}

impl Question {
    /// The one of the goldens.
    pub(crate) fn golden() -> Self {
        let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
        let tokens = |name: &str| {
            let tokens = golden["prompts"][1][name].clone();
            serde_json::from_value(tokens).expect("tokens")
        };
        Self { prompt: tokens("ids"), golden: tokens("greedy_ids") }
    }

    /// As a request for all of its tokens.
    pub(crate) fn body(&self) -> Value {
        completion(&self.prompt, self.golden.len())
    }

    /// Asks a gateway for the tokens, which have to be the golden ones, or gives back the status of
    /// the refusal.
    pub(crate) fn ask(&self, gateway: SocketAddr) -> Result<(), u16> {
        let answer = http::post(gateway, "/v1/completions", &self.body());
        let answer = answer.expect("the gateway answers whatever happens behind it");
        if answer.status != 200 {
            return Err(answer.status);
        }
        assert_eq!(tokens(&answer.ok()["choices"][0]), self.golden);
        Ok(())
    }
}

/// All tokens of a stream that has to end well; `each` is called after every event.
pub(crate) fn streamed(stream: http::Stream, mut each: impl FnMut()) -> Vec<u32> {
    let mut all = Vec::new();
    for event in stream {
        match event {
            http::Event::Data(data) if data["choices"].is_array() => {
                all.extend(tokens(&data["choices"][0]));
            }
            http::Event::Data(data) => panic!("an error: {data}"),
            http::Event::Done => return all,
            http::Event::Broken(why) => panic!("it broke: {why}"),
        }
        each();
    }
    panic!("it ended without a word");
}

/// A service that answers it in two stages.
pub(crate) fn two_stages() -> Value {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": "two-stages"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 1,
            "parallelism": {"pipeline": 2},
        },
    })
}
