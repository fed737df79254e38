//! The vocabulary as `tokenizer.json` would say it, and special tokens and chat template as
//! `tokenizer_config.json` would.
//!
//! Two kinds are read. `gpt2` is byte-level pairs with merges and one of a few ways to cut a text
//! into words, which the file has by name. `llama` is SentencePiece: tokens with scores, where the
//! pair with the best score is joined first; its merges follow from that.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Gguf, header::Value, wrong};
use crate::model::{error::ModelError, tokenizer_config::TokenizerConfig};

/// Kinds of tokens.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

impl Gguf {
    /// A `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] if the vocabulary is of a kind that is not read, or contradicts itself.
    pub(in crate::model) fn tokenizer(&self) -> Result<Vec<u8>, ModelError> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let kinds = self.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            let why = format!("it has {} tokens and {} of their types", tokens.len(), kinds.len());
            return Err(wrong(&self.path, why));
        }
        let ids: BTreeMap<&str, usize> =
            tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let kind = self.text("tokenizer.ggml.model")?.unwrap_or_default();
        let (mut file, adds_bos) = match kind {
            "gpt2" => (self.byte_level(&ids)?, false),
            "llama" => (self.sentence_pieces(tokens, &ids)?, true),
            other => {
                let why = format!("`tokenizer.ggml.model` is `{other}`; gpt2 and llama are read");
                return Err(wrong(&self.path, why));
            }
        };
        let special = kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| **kind == CONTROL || **kind == USER_DEFINED);
        file["added_tokens"] = special
            .map(|(id, kind)| {
                json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": *kind == CONTROL})
            })
            .collect();
        file["post_processor"] = self.surroundings(tokens, adds_bos)?;
        file["version"] = json!("1.0");
        Ok(file.to_string().into_bytes())
    }

    /// What stands in `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] if a special token is none.
    pub(in crate::model) fn tokenizer_config(&self) -> Result<TokenizerConfig, ModelError> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let mut special_tokens = Vec::new();
        for (name, key) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        ] {
            if let Some(token) = self.token_of(tokens, key)? {
                special_tokens.push((name, token.to_owned()));
            }
        }
        Ok(TokenizerConfig {
            file: self.path.clone(),
            special_tokens,
            chat_template: self.text("tokenizer.chat_template")?.map(|text| json!(text)),
            ..TokenizerConfig::default()
        })
    }

    fn token_of<'a>(&self, tokens: &'a [String], key: &str) -> Result<Option<&'a str>, ModelError> {
        let full = format!("tokenizer.ggml.{key}");
        match self.value(&full) {
            None => Ok(None),
            Some(Value::Integer(id)) => match usize::try_from(*id).map(|id| tokens.get(id)) {
                Ok(Some(token)) => Ok(Some(token)),
                _ => Err(wrong(&self.path, format!("`{full}` is {id}, which is no token"))),
            },
            Some(_) => Err(wrong(&self.path, format!("`{full}` must be a whole number"))),
        }
    }

    /// What is put around a text.
    fn surroundings(&self, tokens: &[String], adds_bos: bool) -> Result<Json, ModelError> {
        let flag = |name: &str| self.flag(&format!("tokenizer.ggml.{name}"));
        let (before, after) = (flag("add_bos_token")?, flag("add_eos_token")?);
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut special = json!({});
        for (wanted, key, at) in [
            (before.unwrap_or(adds_bos), "bos_token_id", 0),
            (after.unwrap_or(false), "eos_token_id", usize::MAX),
        ] {
            let token = if wanted { self.token_of(tokens, key)? } else { None };
            if let Some(token) = token {
                let piece = json!({"SpecialToken": {"id": token, "type_id": 0}});
                single.insert(at.min(single.len()), piece);
                special[token] =
                    json!({"id": token, "ids": [self.token_id(key)], "tokens": [token]});
            }
        }
        Ok(match single.len() {
            1 => Json::Null,
            _ => json!({"type": "TemplateProcessing", "single": single,
                        "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                 {"Sequence": {"id": "B", "type_id": 1}}],
                        "special_tokens": special}),
        })
    }

    fn byte_level(&self, ids: &BTreeMap<&str, usize>) -> Result<Json, ModelError> {
        let way = self.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let known = WAYS.iter().find(|(names, ..)| names.contains(&way));
        let Some((_, words, normalizes, ignores)) = known else {
            let known: Vec<&str> = WAYS.iter().flat_map(|(names, ..)| *names).copied().collect();
            let why = format!("`tokenizer.ggml.pre` is `{way}`; {} are read", known.join(", "));
            return Err(wrong(&self.path, why));
        };
        let merges = self.texts("tokenizer.ggml.merges")?.iter().map(|merge| {
            let pair = merge.split_once(' ').filter(|(_, second)| !second.contains(' '));
            let pair = pair.filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b));
            pair.map(|(a, b)| json!([a, b])).ok_or_else(|| {
                let why = format!("`tokenizer.ggml.merges` has {merge:?}, which is no two tokens");
                wrong(&self.path, why)
            })
        });
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let bytes = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                   "use_regex": regex})
        };
        let cut = match words {
            None => bytes(true),
            Some(words) => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated",
                 "invert": false},
                bytes(false)]}),
        };
        Ok(json!({
            "normalizer": if *normalizes { json!({"type": "NFC"}) } else { Json::Null },
            "pre_tokenizer": cut,
            "decoder": bytes(true),
            "model": {"type": "BPE", "vocab": ids, "merges": merges, "fuse_unk": false,
                      "byte_fallback": false, "ignore_merges": ignores},
        }))
    }

    fn sentence_pieces(
        &self,
        tokens: &[String],
        ids: &BTreeMap<&str, usize>,
    ) -> Result<Json, ModelError> {
        let scores = self.numbers("tokenizer.ggml.scores")?.unwrap_or_default();
        if scores.len() != tokens.len() {
            let why = format!("it has {} tokens and {} scores", tokens.len(), scores.len());
            return Err(wrong(&self.path, why));
        }
        // Each token that two others make, by what joining them is worth.
        let mut merges: Vec<(f64, usize, usize)> = Vec::new();
        for (token, score) in tokens.iter().zip(scores).filter(|(token, _)| token.len() <= LONGEST)
        {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let pair = |(a, b): (&str, &str)| Some((*score, *ids.get(a)?, *ids.get(b)?));
            let mut pairs: Vec<_> = cuts.filter_map(pair).collect();
            pairs.sort_by_key(|(_, a, b)| (*a, *b));
            merges.extend(pairs);
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let merges: Vec<Json> =
            merges.into_iter().map(|(_, a, b)| json!([tokens[a], tokens[b]])).collect();
        let begins = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let back = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
        let (mut normalizers, mut decoders) = (vec![spaces], vec![back]);
        decoders.extend([json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        if begins {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "vocab": ids, "merges": merges, "fuse_unk": true,
                      "unk_token": self.token_of(tokens, "unknown_token_id")?,
                      "byte_fallback": true, "ignore_merges": false},
        }))
    }
}

/// A way to cut texts: its names, its words (those of GPT-2 if there is no pattern), whether text
/// is normalized, and whether a word that is a token is taken whole.
type Way = (&'static [&'static str], Option<&'static str>, bool, bool);

const WAYS: [Way; 3] = [
    (&["default", "gpt-2"], None, false, false),
    (&["llama-bpe", "llama3", "llama-v3"], Some(LLAMA_WORDS), false, true),
    (&["qwen2"], Some(QWEN_WORDS), true, false),
];

/// What the published tokenizers of these families cut by.
const LLAMA_WORDS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\
                           \x20?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN_WORDS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|\
                          \x20?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const SPACE: &str = "\u{2581}";
/// Longer tokens are never made of two others: cutting them at every place would be for nothing.
const LONGEST: usize = 512;
