//! The text side of what is served: one [`ServedModel`] per tokenizer that is live ([`load`]), and
//! which grammars it can be held to ([`grammars`]).
//!
//! Tokenizing a long text costs milliseconds, so it happens on the blocking pool, and only as many
//! at a time as there are cores; a short one is done where it stands. A chat template is the
//! model's own program: it always runs on the blocking pool ([`apart`]), in lanes of its model, so
//! that one that takes long holds up requests for that model and nobody else.

mod apart;
pub(crate) mod grammars;
pub(crate) mod load;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use troupe_runtime::{
    id::Digest,
    model::{
        card::ModelCard,
        config::GenerationConfig,
        template::{ChatInput, TemplateError},
        tokenizer::{SpecialTokens, TokenizeError, Tokenizer},
    },
    wire::{adapter::AdapterRef, status::Embeds},
};

pub(crate) use load::{LoadError, ModelSettings, Models};
pub(crate) use troupe_runtime::model::detokenize::Detokenizer;

use crate::{
    egress::parse::family::{ReasoningFamily, ToolFamily},
    error::ApiError,
    ingress::{limits, messages, options::ModelSide},
    openai::common::Side,
};

/// Shorter texts are tokenized where they stand: about 100 microseconds, less than a thread's
/// switch is worth.
const INLINE_BYTES: usize = 4096;

/// Conversations of one model that are rendered at a time. Each takes well below a millisecond.
const RENDERERS: usize = 4;
/// Longest wait for a turn, and then for the template: it cannot be stopped, and has its lane until
/// it ends by its own bounds.
const RENDER_DEADLINE: Duration = Duration::from_secs(10);

/// Most words that a request may forbid: each costs a comparison per token, and all of them are
/// tokenized where they stand.
const MAX_BAD_WORDS: usize = 512;
/// Longest that they may be together.
const MAX_BAD_WORDS_BYTES: usize = 16 << 10;

/// A model's tokenizer, template and advice.
pub(crate) struct ServedModel {
    card: ModelCard,
    /// When it was loaded, in seconds since 1970.
    pub(crate) created: u64,
    /// One more than the highest id that a prompt may hold.
    pub(crate) vocab_size: u32,
    /// Characters of the longest token.
    pub(crate) chars_per_token: usize,
    /// Most alternatives that may be asked for per token.
    pub(crate) max_logprobs: u32,
    families: Families,
    tokenizing: Arc<Semaphore>,
    rendering: apart::Lanes,
    grammars: grammars::Grammars,
}

/// How a model's answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) tools: Option<ToolFamily>,
    pub(crate) reasoning: Option<ReasoningFamily>,
}

/// A name that a request may use, with what stands behind it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) model: Arc<ServedModel>,
    /// The adapter, if it is one's name.
    pub(crate) adapter: Option<AdapterRef>,
    /// Most tokens of prompt and output together.
    pub(crate) max_model_len: u32,
    /// The vectors that it makes of texts, if it writes none.
    pub(crate) embeds: Option<Embeds>,
    /// What is declared of how urgent its requests are; higher goes first.
    pub(crate) priority: Option<i32>,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextOptions {
    /// Leave out special tokens' text.
    pub(crate) skip_special: bool,
}

/// A conversation as a chat template sees it.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) documents: Option<Vec<Value>>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    pub(crate) variables: Map<String, Value>,
}

// === impl ServedModel ===

impl ServedModel {
    fn new(card: ModelCard, tokenizing: Arc<Semaphore>, settings: ModelSettings) -> Self {
        let tokenizer = &card.tokenizer;
        let ids = 0..tokenizer.vocab_size() as u32;
        let longest = ids.filter_map(|id| tokenizer.token(id)).map(|token| token.chars().count());
        let chars_per_token = longest.max().unwrap_or(1);
        let vocab_size = card.config.vocab_size as u32;
        Self {
            created: unix_seconds(),
            vocab_size,
            max_logprobs: settings.max_logprobs.unwrap_or(vocab_size),
            families: Families::of(&card, settings),
            chars_per_token,
            tokenizing,
            rendering: apart::Lanes::new(RENDERERS, RENDER_DEADLINE),
            grammars: grammars::Grammars::new(Arc::clone(&card.tokenizer), card.stop_ids.clone()),
            card,
        }
    }

    /// Tells which grammars can be served.
    pub(crate) fn grammars(&self) -> &grammars::Grammars {
        &self.grammars
    }

    /// Tells tokenizers apart.
    pub(crate) fn tokenizer_digest(&self) -> Digest {
        self.card.tokenizer_digest
    }

    /// Where the model came from.
    pub(crate) fn root(&self) -> &str {
        &self.card.name
    }

    /// How its answers are written.
    pub(crate) fn families(&self) -> Families {
        self.families
    }

    /// A text's token, if it is one.
    pub(crate) fn token_id(&self, text: &str) -> Option<u32> {
        self.card.tokenizer.id(text)
    }

    /// Whether a text is a token that stands for no text.
    pub(crate) fn is_special(&self, text: &str) -> bool {
        self.token_id(text).is_some_and(|id| self.card.tokenizer.is_special(id))
    }

    /// The authors' advice on sampling.
    pub(crate) fn defaults(&self) -> &GenerationConfig {
        &self.card.generation
    }

    /// What sampling options are checked against.
    pub(crate) fn side(&self) -> ModelSide<'_> {
        ModelSide {
            defaults: &self.card.generation,
            vocab_size: self.vocab_size,
            max_logprobs: self.max_logprobs,
            eos_token_ids: &self.card.stop_ids,
        }
    }

    /// The text of a prompt, special tokens and all.
    pub(crate) fn decode(&self, tokens: &[u32]) -> Result<String, ApiError> {
        let text = self.card.tokenizer.decode(tokens, SpecialTokens::Include);
        text.map_err(|error| ApiError::bad_request(error.to_string()))
    }

    fn encode(&self, text: &str, special: bool, max_model_len: u32) -> Result<Vec<u32>, ApiError> {
        limits::check_characters(text, max_model_len, self.chars_per_token)?;
        encode(&self.card.tokenizer, text, special)
    }

    /// The same, of which so many tokens are kept: those that the tokenizer puts around a text
    /// stay, and the text between them is cut.
    fn encode_cut(
        &self,
        mut text: String,
        special: bool,
        (keep, side): (usize, Side),
    ) -> Result<Vec<u32>, ApiError> {
        // Twice as much as is kept, so that what the cut does to its neighbors is cut too.
        let characters = keep.saturating_mul(2).saturating_mul(self.chars_per_token);
        limits::shorten(&mut text, characters, side);
        let whole = encode(&self.card.tokenizer, &text, special)?;
        if whole.len() <= keep {
            return Ok(whole);
        }
        let mut bare = encode(&self.card.tokenizer, &text, false)?;
        let around = whole.len().saturating_sub(bare.len());
        let before = whole.windows(bare.len().max(1)).position(|part| part == bare);
        let (Some(before), true) = (before.filter(|_| !bare.is_empty()), keep > around) else {
            let mut whole = whole;
            limits::truncate(&mut whole, keep, side);
            return Ok(whole);
        };
        let behind = &whole[before + bare.len()..];
        limits::truncate(&mut bare, keep - around, side);
        Ok([&whole[..before], &bare, behind].concat())
    }

    /// Two texts as one, of which so many tokens are kept: it is the second text that is cut.
    fn encode_pair(
        &self,
        (first, second): (&str, &str),
        special: bool,
        (keep, max_model_len): (Option<usize>, u32),
    ) -> Result<Vec<u32>, ApiError> {
        let mut second = second.to_owned();
        match keep {
            Some(keep) => {
                let characters = keep.saturating_mul(2).saturating_mul(self.chars_per_token);
                limits::shorten(&mut second, characters, Side::Right);
            }
            None => limits::check_characters(&second, max_model_len, self.chars_per_token)?,
        }
        limits::check_characters(first, max_model_len, self.chars_per_token)?;
        let (tokenizer, special) = (&self.card.tokenizer, special_tokens(special));
        let failed = |error: TokenizeError| ApiError::bad_request(error.to_string());
        let mut pair = tokenizer.encode_pair((first, &second), special).map_err(failed)?;
        let surplus = pair.len().saturating_sub(keep.unwrap_or(pair.len()));
        if surplus > 0 {
            let bare = tokenizer.encode(&second, SpecialTokens::Exclude).map_err(failed)?;
            let behind = pair.windows(bare.len().max(1)).rposition(|part| part == bare);
            // What does not fit without the second text is refused for its length.
            if let (Some(begin), true) = (behind, bare.len() >= surplus) {
                let end = begin + bare.len();
                pair.drain(end - surplus..end);
            }
        }
        Ok(pair)
    }

    fn render(&self, conversation: &Conversation) -> Result<String, ApiError> {
        let Some(templates) = &self.card.templates else {
            let message = "The model has no chat template; use /v1/completions.";
            return Err(ApiError::bad_request(message));
        };
        let list = |values: &Option<Vec<Value>>| values.clone().map(Value::Array);
        let (tools, documents) = (list(&conversation.tools), list(&conversation.documents));
        let with = |messages: Vec<Value>| {
            templates.render(&ChatInput {
                messages: &Value::Array(messages),
                tools: tools.as_ref(),
                documents: documents.as_ref(),
                add_generation_prompt: conversation.add_generation_prompt,
                kwargs: Some(&conversation.variables),
                now_unix_s: unix_seconds() as i64,
            })
        };
        let text = with(conversation.messages.clone()).or_else(|error| {
            // Most templates want a call's arguments as an object, some as a text.
            let mut messages = conversation.messages.clone();
            messages::close_arguments(&mut messages);
            match error {
                TemplateError::Failed(_) if messages != conversation.messages => with(messages),
                error => Err(error),
            }
        });
        let text = text.map_err(|error| ApiError::bad_request(error.to_string()).at("messages"))?;
        if conversation.continue_final_message {
            return left_open(text, conversation.messages.last());
        }
        Ok(text)
    }

    /// A token's text by itself; what is no whole character becomes U+FFFD.
    pub(crate) fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(token)).into_owned()
    }

    /// A token's bytes by itself.
    pub(crate) fn token_bytes(&self, token: u32) -> Vec<u8> {
        self.card.tokenizer.bytes(token).unwrap_or_default()
    }

    /// A token as the vocabulary writes it.
    pub(crate) fn token_name(&self, token: u32) -> String {
        self.card.tokenizer.token(token).unwrap_or_default()
    }

    /// For one output that follows a prompt.
    pub(crate) fn detokenizer(&self, text: TextOptions, prompt: &[u32]) -> Detokenizer {
        let special = match text.skip_special {
            true => SpecialTokens::Exclude,
            false => SpecialTokens::Include,
        };
        Detokenizer::continuing(Arc::clone(&self.card.tokenizer), special, prompt)
    }

    /// The token sequences that spell words which must not appear: at a text's beginning and after
    /// a space, where the latter is another token.
    pub(crate) fn bad_words(&self, words: &[String]) -> Result<Vec<Vec<u32>>, ApiError> {
        let bytes: usize = words.iter().map(String::len).sum();
        if words.len() > MAX_BAD_WORDS || bytes > MAX_BAD_WORDS_BYTES {
            let message = format!(
                "bad_words can contain at most {MAX_BAD_WORDS} texts of together \
                 {MAX_BAD_WORDS_BYTES} bytes, got {} of {bytes}.",
                words.len()
            );
            return Err(ApiError::bad_request(message).at("bad_words"));
        }
        let mut sequences: Vec<Vec<u32>> = Vec::new();
        for word in words {
            if word.trim_start().is_empty() {
                let message = "bad_words cannot contain an empty string.";
                return Err(ApiError::bad_request(message).at("bad_words"));
            }
            let encode = |text: &str| encode(&self.card.tokenizer, text, false);
            let bare = encode(word.trim_start())?;
            let spaced = encode(&format!(" {}", word.trim_start()))?;
            let differs = spaced.first() != bare.first() && spaced.len() == bare.len();
            sequences.push(bare);
            sequences.extend(differs.then_some(spaced));
        }
        Ok(sequences)
    }
}

// === impl Families ===

impl Families {
    /// As the settings say, else as the chat template shows.
    fn of(card: &ModelCard, settings: ModelSettings) -> Self {
        let templates = card.templates.as_ref();
        let shows = |text: &str| templates.is_some_and(|templates| templates.contain(text));
        Self {
            tools: settings.tools.or(|| ToolFamily::recognize(shows)),
            reasoning: settings.reasoning.or(|| ReasoningFamily::recognize(shows)),
        }
    }
}

// === impl Served ===

impl Served {
    /// A text's tokens.
    pub(crate) async fn encode(&self, text: String, special: bool) -> Result<Vec<u32>, ApiError> {
        let (model, max_model_len) = (Arc::clone(&self.model), self.max_model_len);
        let bytes = text.len();
        self.run(bytes, move || model.encode(&text, special, max_model_len)).await
    }

    /// A text's tokens, of which so many are kept.
    pub(crate) async fn encode_cut(
        &self,
        text: String,
        special: bool,
        cut: (usize, Side),
    ) -> Result<Vec<u32>, ApiError> {
        let (model, bytes) = (Arc::clone(&self.model), text.len());
        self.run(bytes, move || model.encode_cut(text, special, cut)).await
    }

    /// The tokens of two texts as one, of which so many are kept.
    pub(crate) async fn encode_pair(
        &self,
        (first, second): (String, String),
        special: bool,
        keep: Option<usize>,
    ) -> Result<Vec<u32>, ApiError> {
        let (model, bytes) = (Arc::clone(&self.model), first.len() + second.len());
        let bounds = (keep, self.max_model_len);
        self.run(bytes, move || model.encode_pair((&first, &second), special, bounds)).await
    }

    /// A conversation's tokens, by way of the model's chat template.
    pub(crate) async fn render(
        &self,
        conversation: Conversation,
        special: bool,
    ) -> Result<Vec<u32>, ApiError> {
        let model = Arc::clone(&self.model);
        let text = self.model.rendering.run(move || model.render(&conversation)).await?;
        self.encode(text?, special).await
    }

    /// Does the work here if it is short, else on the blocking pool when it is its turn.
    async fn run(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<Vec<u32>, ApiError> + Send + 'static,
    ) -> Result<Vec<u32>, ApiError> {
        if bytes <= INLINE_BYTES {
            return work();
        }
        // The semaphore is never closed. The turn lasts as long as the work, not as its waiter.
        let turn = Arc::clone(&self.model.tokenizing).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        task.await.map_err(|_| ApiError::internal("Tokenizing was interrupted."))?
    }
}

/// The prompt without what the template puts behind the last message's text.
fn left_open(mut text: String, last: Option<&Value>) -> Result<String, ApiError> {
    let content = last.and_then(|message| message.get("content")).and_then(Value::as_str);
    let content = content.unwrap_or_default();
    // Templates trim what they like, but not in the middle of a text.
    let Some(start) = text.rfind(content.trim()) else {
        let message = "continue_final_message is set but the final message does not appear in the \
                       chat after applying the chat template.";
        return Err(ApiError::bad_request(message).at("continue_final_message"));
    };
    let kept = content.trim_start();
    let end = if text[start..].starts_with(kept) { kept.len() } else { content.trim().len() };
    text.truncate(start + end);
    Ok(text)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn special_tokens(wanted: bool) -> SpecialTokens {
    if wanted { SpecialTokens::Include } else { SpecialTokens::Exclude }
}

fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<u32>, ApiError> {
    tokenizer
        .encode(text, special_tokens(special))
        .map_err(|error| ApiError::bad_request(error.to_string()))
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServedModel({})", self.card.name)
    }
}
