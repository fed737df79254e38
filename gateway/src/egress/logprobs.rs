//! Log-probabilities in both of the API's styles.
//!
//! Old style (completions): parallel lists, the likeliest keyed by text. New style (chat): one
//! object per token, with bytes, because a token need not be whole characters. What the engine
//! calls minus infinity is told as [`FLOOR`]: JSON has no infinity.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use troupe_runtime::wire::generate::TokenLogprobs;

use crate::{
    model::ServedModel,
    openai::{
        chat::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob},
        completions::CompletionLogprobs,
    },
};

/// The least that is told.
const FLOOR: f32 = -9999.0;

/// How tokens are told.
#[derive(Clone, Debug)]
pub(crate) struct TokenNames {
    pub(crate) model: Arc<ServedModel>,
    /// `token_id:123` instead of the text.
    pub(crate) as_ids: bool,
    /// Alternatives that were asked for.
    pub(crate) top: usize,
}

impl TokenNames {
    fn name(&self, token: u32) -> String {
        if self.as_ids { format!("token_id:{token}") } else { self.model.token_text(token) }
    }

    fn bytes(&self, token: u32, name: &str) -> Vec<u8> {
        if self.as_ids { name.as_bytes().to_vec() } else { self.model.token_bytes(token) }
    }

    /// Old style; `offset` is where the choice's text stands and moves on.
    pub(crate) fn old_style(
        &self,
        tokens: &[u32],
        logprobs: &[Option<&TokenLogprobs>],
        offset: &mut u32,
    ) -> CompletionLogprobs {
        let mut told = CompletionLogprobs::default();
        for (token, logprob) in tokens.iter().zip(logprobs) {
            let name = self.name(*token);
            told.text_offset.push(*offset);
            *offset += name.chars().count() as u32;
            told.token_logprobs.push(logprob.map(|logprob| floor(logprob.logprob)));
            told.top_logprobs.push(logprob.map(|logprob| self.candidates(logprob)));
            told.tokens.push(name);
        }
        told
    }

    /// The likeliest and the chosen one, by text.
    fn candidates(&self, logprobs: &TokenLogprobs) -> Map<String, Value> {
        let mut map = Map::new();
        for (token, logprob) in logprobs.top.iter().take(self.top) {
            map.entry(self.name(*token)).or_insert(floor(*logprob).into());
        }
        map.entry(self.name(logprobs.token)).or_insert(floor(logprobs.logprob).into());
        map
    }

    /// New style.
    pub(crate) fn new_style(&self, logprobs: &[TokenLogprobs]) -> ChatLogprobs {
        let content = logprobs.iter().map(|of| {
            let token = self.name(of.token);
            let top = of.top.iter().take(self.top).map(|(id, logprob)| {
                let token = self.name(*id);
                let bytes = Some(self.bytes(*id, &token));
                ChatTopLogprob { bytes, token, logprob: floor(*logprob) }
            });
            ChatTokenLogprob {
                bytes: Some(self.bytes(of.token, &token)),
                token,
                logprob: floor(of.logprob),
                top_logprobs: top.collect(),
            }
        });
        ChatLogprobs { content: content.collect() }
    }

    /// The prompt's, per token the candidates by id; nothing is known of the first token.
    pub(crate) fn of_prompt(&self, logprobs: &[TokenLogprobs]) -> Vec<Option<Map<String, Value>>> {
        let later = logprobs.iter().map(|of| {
            let mut map = Map::new();
            let chosen = (of.token, of.logprob, of.rank);
            let ranked =
                (1..).zip(&of.top).map(|(rank, (token, logprob))| (*token, *logprob, rank));
            for (token, logprob, rank) in std::iter::once(chosen).chain(ranked) {
                map.entry(token.to_string()).or_insert_with(|| {
                    let text = self.model.token_text(token);
                    json!({"logprob": floor(logprob), "rank": rank, "decoded_token": text})
                });
            }
            Some(map)
        });
        std::iter::once(None).chain(later).collect()
    }
}

/// Exactly the engine's number: written as a float of 32 bits it would not equal itself elsewhere.
fn floor(logprob: f32) -> f64 {
    // `max` also turns what is no number into the floor.
    f64::from(logprob.max(FLOOR))
}
