//! `tokenizer_config.json` and `special_tokens_map.json`: which tokens are special by name, and the
//! switches that change what the tokenizer adds.
//!
//! Both files are optional. What they name is needed by chat templates (`bos_token` and friends are
//! variables there) and by tokenizers of the Llama class, whose flags override `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{
    error::ModelError,
    gguf::{self, Gguf},
    json::{self, Fields},
};

/// What is read of the two files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Where the main file is, for errors about what it holds.
    pub file: PathBuf,
    /// Tokens by name (`bos_token`, `eos_token`, ...), in the order of [`NAMES`]; no unset ones.
    pub special_tokens: Vec<(&'static str, String)>,
    /// Further special tokens without a role.
    pub additional_special_tokens: Vec<String>,
    /// `tokenizer_class`.
    pub class: Option<String>,
    /// Whether encoding begins with the BOS token, if said.
    pub add_bos_token: Option<bool>,
    /// Whether encoding ends with the EOS token, if said.
    pub add_eos_token: Option<bool>,
    /// `chat_template` as it stands: a text or a list of named texts.
    pub chat_template: Option<Value>,
}

impl TokenizerConfig {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// [`ModelError`] naming file and field.
    pub fn load(config: Option<&Path>, special: Option<&Path>) -> Result<Self, ModelError> {
        let mut loaded = Self::default();
        if let Some(file) = config.filter(|file| gguf::is_gguf(file)) {
            return Gguf::open(file)?.tokenizer_config();
        }
        if let Some(file) = config {
            let map = json::parse_object(file, &json::read_bounded(file, MAX_BYTES)?)?;
            let fields = Fields::new(file, &map);
            loaded = Self {
                file: file.to_owned(),
                special_tokens: special_tokens(&fields)?,
                additional_special_tokens: additional_tokens(&map),
                class: fields.text("tokenizer_class")?.map(str::to_owned),
                add_bos_token: fields.flag("add_bos_token")?,
                add_eos_token: fields.flag("add_eos_token")?,
                chat_template: fields.get("chat_template").cloned(),
            };
        }
        if let Some(file) = special {
            let map = json::parse_object(file, &json::read_bounded(file, MAX_BYTES)?)?;
            for (name, token) in special_tokens(&Fields::new(file, &map))? {
                if loaded.token(name).is_none() {
                    loaded.special_tokens.push((name, token));
                }
            }
        }
        Ok(loaded)
    }

    /// The text of a named special token, such as `bos_token`.
    pub fn token(&self, name: &str) -> Option<&str> {
        self.special_tokens
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, token)| token.as_str())
    }
}

fn special_tokens(fields: &Fields<'_>) -> Result<Vec<(&'static str, String)>, ModelError> {
    let mut found = Vec::new();
    for name in NAMES {
        let Some(value) = fields.get(name) else {
            continue;
        };
        let Some(text) = token_text(value) else {
            return Err(fields.wrong(name, "it must be a text or an object with `content`"));
        };
        found.push((name, text.to_owned()));
    }
    Ok(found)
}

fn additional_tokens(map: &Map<String, Value>) -> Vec<String> {
    let list = map.get("additional_special_tokens").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(token_text).map(str::to_owned).collect()
}

/// A token is written as a text or as an object that describes it.
fn token_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        _ => None,
    }
}

/// The roles that tokens have by name.
pub const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Those that list each of a thousand added tokens as an object reach a few hundred KiB.
const MAX_BYTES: u64 = 16 << 20;
