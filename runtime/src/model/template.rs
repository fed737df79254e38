//! Chat templates: a conversation becomes the prompt text that the model was trained on.
//!
//! Templates are written for Jinja2 as transformers sets it up; this module sets minijinja up to
//! the same behavior, Python's ways of writing values included. A template is outside data that
//! runs: it has no access to anything but its input, the steps it may take, the text it may make
//! and the work within a step are bounded ([`budget`]), and it takes the time of day as an argument
//! so that rendering is a pure function. What a single expression makes of large texts is found out
//! only afterwards: who serves a model trusts its template with that memory, as they trust its
//! weights. A caller that must not wait renders on a thread for it.

mod budget;
mod environment;
mod json;
mod methods;
mod strftime;
mod tags;
#[cfg(test)]
mod tests;

use std::{io, path::Path};

use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

use self::strftime::Clock;
use super::{
    error::ModelError, guard::guarded, json::read_bounded, tokenizer_config::TokenizerConfig,
};

/// The chat templates of a model: most have one, some a second for requests with tools.
#[derive(Debug)]
pub struct ChatTemplates {
    named: Vec<(String, Environment<'static>)>,
    variables: Vec<(&'static str, Value)>,
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// The conversation: a list of objects with `role` and `content`.
    pub messages: &'a Json,
    /// Tools that the model may call, as the request has them.
    pub tools: Option<&'a Json>,
    /// Documents to answer from.
    pub documents: Option<&'a Json>,
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub kwargs: Option<&'a Map<String, Json>>,
    /// What `strftime_now` shows: seconds since 1970 in UTC.
    pub now_unix_s: i64,
}

/// Why a conversation could not be rendered. Each is the request's doing as far as one can tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself refused the conversation, in its author's words.
    #[error("{0}")]
    Raised(String),
    /// The template does not work on such a conversation.
    #[error("the chat template cannot render this conversation: {0}")]
    Failed(String),
    /// The template took too long or made too much text.
    #[error("the chat template made more text or took more steps than is allowed")]
    TooMuch,
}

impl ChatTemplates {
    /// Loads `chat_template.jinja` if there is one, else what `tokenizer_config.json` holds, a text
    /// or a list of named texts. `None` if the model has no template.
    ///
    /// # Errors
    /// [`ModelError::Template`] if one is not well-formed.
    pub fn load(
        jinja: Option<&Path>,
        config: &TokenizerConfig,
    ) -> Result<Option<Self>, ModelError> {
        let unusable =
            |file: &Path, reason: String| ModelError::Template { file: file.to_owned(), reason };
        if let Some(file) = jinja {
            let text = String::from_utf8(read_bounded(file, MAX_TEMPLATE_BYTES)?)
                .map_err(|error| unusable(file, error.to_string()))?;
            return Self::parse(file, &[("default", &text)], config).map(Some);
        }
        let Some(found) = &config.chat_template else {
            return Ok(None);
        };
        let sources: Option<Vec<(&str, &str)>> = match found {
            Json::String(text) => Some(vec![("default", text)]),
            Json::Array(list) => list
                .iter()
                .map(|entry| Some((entry["name"].as_str()?, entry["template"].as_str()?)))
                .collect(),
            _ => None,
        };
        let expected = "`chat_template` must be a text or a list of objects with `name` and \
                        `template`";
        let sources = sources.ok_or_else(|| unusable(&config.file, expected.to_owned()))?;
        Self::parse(&config.file, &sources, config).map(Some)
    }

    /// Compiles named templates; `file` is for errors only. The special tokens of `config` become
    /// variables.
    ///
    /// # Errors
    /// [`ModelError::Template`] with line and reason if one is not well-formed.
    pub fn parse(
        file: &Path,
        sources: &[(&str, &str)],
        config: &TokenizerConfig,
    ) -> Result<Self, ModelError> {
        let mut named = Vec::new();
        for (name, source) in sources {
            let unusable = |reason: String| ModelError::Template { file: file.to_owned(), reason };
            if source.len() as u64 > MAX_TEMPLATE_BYTES {
                let most = MAX_TEMPLATE_BYTES;
                return Err(unusable(format!("it has more than {most} bytes")));
            }
            let compiled = guarded(|| environment::compile(source)).map_err(unusable)?;
            let compiled = compiled.map_err(|error| unusable(describe(&error)))?;
            named.push(((*name).to_owned(), compiled));
        }
        let mut variables: Vec<_> = config
            .special_tokens
            .iter()
            .map(|(name, token)| (*name, Value::from(token.as_str())))
            .collect();
        if !config.additional_special_tokens.is_empty() {
            let tokens =
                config.additional_special_tokens.iter().map(|t| Value::from(t.as_str())).collect();
            variables.push(("additional_special_tokens", tokens));
        }
        Ok(Self { named, variables })
    }

    /// Whether a text stands in one of the templates: what a template shows, its model writes.
    pub fn contain(&self, text: &str) -> bool {
        let templates = self.named.iter().map(|(_, of)| of.get_template(environment::NAME));
        templates.flatten().any(|template| template.source().contains(text))
    }

    /// Renders a conversation: by the template for tools where there is one and tools are given,
    /// else by the default one.
    ///
    /// # Errors
    /// [`TemplateError`], whose text is for the client.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TemplateError> {
        let named = |name| self.named.iter().find(|(known, _)| known == name);
        let with_tools = input.tools.and_then(|_| named("tool_use"));
        let chosen = with_tools.or_else(|| named("default")).or(self.named.first());
        let Some((_, environment)) = chosen else {
            return Err(TemplateError::Failed("the model has none".to_owned()));
        };
        let template = environment.get_template(environment::NAME).map_err(|e| refusal(&e))?;
        let mut output = Bounded { bytes: Vec::new() };
        budget::begin();
        // The library is made for templates that their server's owner wrote.
        let rendered = guarded(|| {
            let context = self.context(input);
            template.render_captured_to(context, &mut output).map(drop).map_err(|e| refusal(&e))
        });
        rendered.unwrap_or_else(|why| Err(TemplateError::Failed(why)))?;
        if budget::is_spent() {
            return Err(TemplateError::TooMuch);
        }
        String::from_utf8(output.bytes).map_err(|error| TemplateError::Failed(error.to_string()))
    }

    /// Variables: special tokens, then the request's own, then those that nothing may replace.
    fn context(&self, input: &ChatInput<'_>) -> Value {
        let clock = Clock::at(input.now_unix_s);
        let now = move |format: &str| clock.format(format);
        let own = input.kwargs.into_iter().flatten();
        let fixed = [
            ("messages", json::value_of(input.messages)),
            ("tools", input.tools.map_or(Value::from(()), json::value_of)),
            ("documents", input.documents.map_or(Value::from(()), json::value_of)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("strftime_now", Value::from_function(now)),
        ];
        let variables = self.variables.iter().map(|(name, value)| (*name, value.clone()));
        let own = own.map(|(name, value)| (name.as_str(), json::value_of(value)));
        Value::from_pairs(variables.chain(own).chain(fixed))
    }
}

/// Sorts what went wrong while rendering.
fn refusal(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(found) = cause {
        if let Some(raised) = found.downcast_ref::<environment::Raised>() {
            return TemplateError::Raised(raised.0.clone());
        }
        cause = found.source();
    }
    match error.kind() {
        minijinja::ErrorKind::OutOfFuel | minijinja::ErrorKind::WriteFailure => {
            TemplateError::TooMuch
        }
        _ => TemplateError::Failed(describe(error)),
    }
}

fn describe(error: &minijinja::Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{reason} (line {line})"),
        None => reason,
    }
}

/// Text that grows up to [`MAX_OUTPUT_BYTES`].
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A prompt of a million tokens has about 4 MiB; no model takes more than a few of those.
const MAX_OUTPUT_BYTES: usize = 32 << 20;
/// The longest published template has 30 KiB.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
