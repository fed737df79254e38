//! The families: by what name they are asked for, how their calls and thoughts are marked, and how
//! a model's own is recognized.
//!
//! Recognition looks at the chat template, because it tells the model how to write its calls: what
//! the template shows is what the model answers with.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use serde_json::Value;

use super::{
    draft::Reader,
    forced::{Named, Required},
    hermes::{self, Hermes},
    llama::{self, Llama},
    mistral::{self, Mistral},
    pythonic::{self, Pythonic},
    qwen3_coder::{self, Qwen3Coder},
    reasoning::Markers,
};

/// How a family of models writes tool calls. Names are vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFamily {
    /// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`: Hermes, Qwen 2.5 and 3.
    Hermes,
    /// `{"name": ..., "parameters": ...}` as the whole answer: Llama 3 and 4.
    Llama3Json,
    /// `[TOOL_CALLS]` and what follows it: Mistral.
    Mistral,
    /// `[f(city="Paris")]` as the whole answer: Llama 3.2 and 4, Gemma 3.
    Pythonic,
    /// `<tool_call><function=f><parameter=city>...`: Qwen 3 Coder.
    Qwen3Coder,
}

/// How a family of models marks its reasoning. Names are vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFamily {
    /// `<think>` and `</think>`; an answer is taken to begin inside, whatever the prompt says.
    DeepseekR1,
    /// `[THINK]` and `[/THINK]`.
    Mistral,
    /// `<think>` and `</think>`; an answer begins inside if the prompt ends with the former.
    Qwen3,
}

/// Where an answer begins, seen from its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// It may reason, or not.
    Ahead,
    /// The prompt has begun to.
    Inside,
    /// The prompt has ended it.
    Behind,
}

/// What a setting says about a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParserChoice<T> {
    /// The one that the model's template shows, if any.
    #[default]
    Auto,
    /// None: text stays as it is.
    Off,
    /// This one.
    Is(T),
}

/// A text with which calls may begin.
pub(super) struct Opener {
    pub(super) text: &'static str,
    /// Only where nothing was said before.
    pub(super) only_first: bool,
}

/// How the calls of one answer are written.
#[derive(Clone, Debug)]
pub(crate) enum Syntax {
    /// As the model likes.
    Family(ToolFamily, Arc<ToolTypes>),
    /// A grammar forces an array of calls.
    Required,
    /// A grammar forces the arguments of this tool.
    Named(String),
}

/// Which arguments of which tools are texts, by the tools' schemas.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolTypes(BTreeMap<String, BTreeMap<String, bool>>);

// === impl ToolFamily ===

impl ToolFamily {
    const NAMES: [(&'static str, Self); 7] = [
        ("hermes", Self::Hermes),
        ("llama3_json", Self::Llama3Json),
        ("llama4_json", Self::Llama3Json),
        ("mistral", Self::Mistral),
        ("pythonic", Self::Pythonic),
        ("qwen3_coder", Self::Qwen3Coder),
        ("qwen3_xml", Self::Qwen3Coder),
    ];

    /// What a chat template says that none of another family says; the first that fits is it.
    const SIGNS: [(&'static str, Self); 5] = [
        ("<function=", Self::Qwen3Coder),
        ("<tool_call>", Self::Hermes),
        ("[TOOL_CALLS]", Self::Mistral),
        ("{\"name\": function name, \"parameters\":", Self::Llama3Json),
        ("[func_name1(", Self::Pythonic),
    ];

    /// The family of a model, by its chat template.
    pub(crate) fn recognize(shows: impl Fn(&str) -> bool) -> Option<Self> {
        Self::SIGNS.iter().find(|(sign, _)| shows(sign)).map(|(_, family)| *family)
    }

    fn openers(self) -> &'static [Opener] {
        match self {
            Self::Hermes => &[Opener { text: hermes::OPEN, only_first: false }],
            Self::Llama3Json => &[
                Opener { text: llama::TAG, only_first: false },
                Opener { text: "{", only_first: true },
            ],
            Self::Mistral => &[Opener { text: mistral::TAG, only_first: false }],
            Self::Pythonic => &[Opener { text: pythonic::OPEN, only_first: true }],
            Self::Qwen3Coder => &[
                Opener { text: qwen3_coder::OPEN, only_first: false },
                Opener { text: qwen3_coder::FUNCTION, only_first: false },
            ],
        }
    }

    fn reader(self, opener: &Opener, types: &Arc<ToolTypes>) -> Box<dyn Reader> {
        match self {
            Self::Hermes => Box::new(Hermes::new()),
            Self::Llama3Json if opener.text == llama::TAG => Box::new(Llama::tagged()),
            Self::Llama3Json => Box::new(Llama::braced()),
            Self::Mistral => Box::new(Mistral::new()),
            Self::Pythonic => Box::new(Pythonic::new()),
            Self::Qwen3Coder if opener.text == qwen3_coder::OPEN => {
                Box::new(Qwen3Coder::new(Arc::clone(types)))
            }
            Self::Qwen3Coder => Box::new(Qwen3Coder::function(Arc::clone(types))),
        }
    }

    /// The texts that must not be left out as special tokens.
    pub(crate) fn markers(self) -> impl Iterator<Item = &'static str> {
        self.openers().iter().map(|opener| opener.text)
    }
}

// === impl ReasoningFamily ===

impl ReasoningFamily {
    const NAMES: [(&'static str, Self); 3] =
        [("deepseek_r1", Self::DeepseekR1), ("mistral", Self::Mistral), ("qwen3", Self::Qwen3)];

    const SIGNS: [(&'static str, Self); 3] =
        [("<think>", Self::Qwen3), ("</think>", Self::Qwen3), ("[THINK]", Self::Mistral)];

    /// The family of a model, by its chat template.
    pub(crate) fn recognize(shows: impl Fn(&str) -> bool) -> Option<Self> {
        Self::SIGNS.iter().find(|(sign, _)| shows(sign)).map(|(_, family)| *family)
    }

    pub(crate) fn markers(self) -> Markers {
        match self {
            Self::DeepseekR1 | Self::Qwen3 => Markers { open: "<think>", close: "</think>" },
            Self::Mistral => Markers { open: "[THINK]", close: "[/THINK]" },
        }
    }

    /// Where an answer to this prompt begins.
    pub(crate) fn beginning(self, prompt_end: &str) -> Beginning {
        let (end, markers) = (prompt_end.trim_end(), self.markers());
        match self {
            _ if end.ends_with(markers.close) => Beginning::Behind,
            _ if end.ends_with(markers.open) => Beginning::Inside,
            Self::DeepseekR1 => Beginning::Inside,
            Self::Mistral | Self::Qwen3 => Beginning::Ahead,
        }
    }
}

// === impl ParserChoice ===

/// A family that has a name.
pub trait Family: Copy + Sized + 'static {
    /// Every name, with what it stands for.
    fn names() -> &'static [(&'static str, Self)];
}

impl Family for ToolFamily {
    fn names() -> &'static [(&'static str, Self)] {
        &Self::NAMES
    }
}

impl Family for ReasoningFamily {
    fn names() -> &'static [(&'static str, Self)] {
        &Self::NAMES
    }
}

impl<T: Copy> ParserChoice<T> {
    /// The family, given what the model's template shows.
    pub(crate) fn or(self, recognized: impl FnOnce() -> Option<T>) -> Option<T> {
        match self {
            Self::Auto => recognized(),
            Self::Off => None,
            Self::Is(family) => Some(family),
        }
    }
}

/// A name that stands for no family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no parser here; there are {known}")]
pub struct UnknownParser {
    name: String,
    known: String,
}

impl<T: Family> FromStr for ParserChoice<T> {
    type Err = UnknownParser;

    fn from_str(name: &str) -> Result<Self, UnknownParser> {
        match name {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::Off),
            _ => {}
        }
        let found = T::names().iter().find(|(known, _)| *known == name);
        let known = || {
            let names = T::names().iter().map(|(name, _)| *name);
            ["auto", "none"].into_iter().chain(names).collect::<Vec<_>>().join(", ")
        };
        found
            .map(|(_, family)| Self::Is(*family))
            .ok_or_else(|| UnknownParser { name: name.to_owned(), known: known() })
    }
}

// === impl Syntax ===

impl Syntax {
    pub(super) fn openers(&self) -> &'static [Opener] {
        match self {
            Self::Family(family, _) => family.openers(),
            Self::Required | Self::Named(_) => &[],
        }
    }

    pub(super) fn reader(&self, opener: &Opener) -> Option<Box<dyn Reader>> {
        match self {
            Self::Family(family, types) => Some(family.reader(opener, types)),
            Self::Required | Self::Named(_) => None,
        }
    }

    /// What reads an answer from its beginning, if a grammar forces it.
    pub(super) fn forced(&self) -> Option<Box<dyn Reader>> {
        match self {
            Self::Family(..) => None,
            Self::Required => Some(Box::new(Required::new())),
            Self::Named(name) => Some(Box::new(Named::new(name.clone()))),
        }
    }
}

// === impl ToolTypes ===

impl ToolTypes {
    /// Of a request's tools.
    pub(crate) fn of(tools: &[Value]) -> Self {
        let functions = tools.iter().filter_map(|tool| tool.get("function"));
        let types = functions.filter_map(|function| {
            let name = function.get("name")?.as_str()?.to_owned();
            let properties = function.pointer("/parameters/properties")?.as_object()?;
            let is_text = |schema: &Value| match schema.get("type") {
                Some(kind) => kind == "string",
                // Without a type it is what its alternatives are; a value that is no JSON is a text
                // in any case.
                None => schema.get("anyOf").is_none() && schema.get("oneOf").is_none(),
            };
            let each = properties.iter().map(|(key, schema)| (key.clone(), is_text(schema)));
            Some((name, each.collect()))
        });
        Self(types.collect())
    }

    /// What no schema speaks of is a text.
    pub(super) fn is_text(&self, tool: &str, argument: &str) -> bool {
        let argument = self.0.get(tool).and_then(|arguments| arguments.get(argument));
        argument.copied().unwrap_or(true)
    }
}
