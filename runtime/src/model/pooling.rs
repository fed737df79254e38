//! How the states of a text's tokens become one vector for the text, and which models are run for
//! that.
//!
//! Models for embeddings come with the files of sentence-transformers: `modules.json` lists what
//! stands behind the layers, `1_Pooling/config.json` says which states are taken,
//! `sentence_bert_config.json` how long a text may be. Any other decoder can be run for embeddings
//! as well, if its user says so; then the state behind its last token stands for the text, because
//! it alone has seen all of it.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    card::ModelCard,
    config::ModelConfig,
    error::ModelError,
    json::{self, Fields},
};
use crate::spec::EngineFlags;

/// What is made of a text's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// Which of them are taken.
    pub kind: PoolingKind,
    /// Whether the vector is divided by its length, so that products of two are cosines.
    pub normalize: bool,
}

/// Which states stand for a text. Names are vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolingKind {
    /// The first one.
    Cls,
    /// The last one.
    Last,
    /// The mean of all.
    Mean,
    /// The first one, of which the model's own classifier makes one number: a score.
    Score,
}

/// What the files of sentence-transformers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceFiles {
    /// What is made of states.
    pub pooling: Pooling,
    /// Tokens of a text at most, special ones included; the model's own bound if it is not said.
    pub max_tokens: Option<u32>,
}

impl SentenceFiles {
    /// Reads what is in a model's folder; none if the model is not one of these.
    ///
    /// # Errors
    /// [`ModelError`] on a module that is not known: without it vectors would be others.
    pub fn load(folder: &Path) -> Result<Option<Self>, ModelError> {
        let file = folder.join("modules.json");
        if !file.is_file() {
            return Ok(None);
        }
        let bytes = json::read_bounded(&file, MAX_BYTES)?;
        let listed: Vec<Map<String, Value>> = serde_json::from_slice(&bytes)
            .map_err(|source| ModelError::Json { file: file.clone(), source })?;
        let (mut kind, mut normalize) = (None, false);
        for module in &listed {
            let fields = Fields::new(&file, module);
            let class = fields.text("type")?.unwrap_or_default();
            match class.rsplit_once('.').map_or(class, |(_, name)| name) {
                "Transformer" => {}
                "Pooling" => kind = Some(pooled(folder, &fields)?),
                "Normalize" => normalize = true,
                _ => {
                    let expected = "the modules that are known are Transformer, Pooling and \
                                    Normalize";
                    return Err(fields.wrong("type", expected));
                }
            }
        }
        let Some(kind) = kind else { return Ok(None) };
        let pooling = Pooling { kind, normalize };
        Ok(Some(Self { pooling, max_tokens: max_tokens(folder)? }))
    }
}

/// What a pooling module's own file says.
fn pooled(folder: &Path, module: &Fields<'_>) -> Result<PoolingKind, ModelError> {
    let path = module.text("path")?.unwrap_or_default();
    // It names a folder beside the file, and nothing outside.
    if path.is_empty() || path.contains(['/', '\\']) || path.starts_with('.') {
        return Err(module.wrong("path", "it must be the name of a folder beside this file"));
    }
    let file = folder.join(path).join("config.json");
    let map = json::parse_object(&file, &json::read_bounded(&file, MAX_BYTES)?)?;
    let fields = Fields::new(&file, &map);
    let mut kinds = Vec::new();
    for name in map.keys().filter(|name| name.starts_with(MODE)) {
        if fields.flag(name)? != Some(true) {
            continue;
        }
        match &name[MODE.len()..] {
            "cls_token" => kinds.push(PoolingKind::Cls),
            "lasttoken" => kinds.push(PoolingKind::Last),
            "mean_tokens" => kinds.push(PoolingKind::Mean),
            _ => {
                let expected = "the modes that are known are pooling_mode_cls_token, \
                                pooling_mode_lasttoken and pooling_mode_mean_tokens";
                return Err(fields.wrong(name, expected));
            }
        }
    }
    match kinds.as_slice() {
        [kind] => Ok(*kind),
        _ => {
            let expected = format!("exactly one mode must be true, {} are", kinds.len());
            Err(fields.wrong("pooling_mode_mean_tokens", expected))
        }
    }
}

/// The length that a text is cut to by those who made the model.
fn max_tokens(folder: &Path) -> Result<Option<u32>, ModelError> {
    let file = folder.join("sentence_bert_config.json");
    if !file.is_file() {
        return Ok(None);
    }
    let map = json::parse_object(&file, &json::read_bounded(&file, MAX_BYTES)?)?;
    let fields = Fields::new(&file, &map);
    // `do_lower_case` beside it is not looked at: a tokenizer that wants small letters makes them.
    Ok(fields.integer("max_seq_length", 1..=u64::from(u32::MAX))?.map(|length| length as u32))
}

impl Pooling {
    /// Whether a model is run for embeddings, and how, by what its user said (`--runner`, `--task`,
    /// `--pooler-config`), its files, and its kind, in this order.
    ///
    /// # Errors
    /// A sentence that names the flag, what was said, and what would be right.
    pub fn resolve(flags: &EngineFlags, card: &ModelCard) -> Result<Option<Self>, String> {
        let ModelCard { config, sentences, .. } = card;
        let own = sentences.map(|files| files.pooling);
        let by_kind = own.is_some() || config.encoder.is_some() || config.is_headless;
        if !asked(flags)?.unwrap_or(by_kind) {
            return match (config.encoder.is_some(), config.is_headless) {
                (false, false) => Ok(None),
                _ => Err(format!(
                    "--runner is generate, but a {} reads texts and writes none: pooling is \
                     possible",
                    config.architecture
                )),
            };
        }
        let pooling = match config.encoder.and_then(|encoder| encoder.classifier) {
            Some(_) => Self { kind: PoolingKind::Score, normalize: false },
            None => own.unwrap_or_else(|| Self::usual(config)),
        };
        flags.pooler_config.as_deref().map_or(Ok(pooling), |text| pooling.changed(text)).map(Some)
    }

    /// Where nobody says anything else.
    fn usual(config: &ModelConfig) -> Self {
        let kind = if config.encoder.is_some() { PoolingKind::Cls } else { PoolingKind::Last };
        Self { kind, normalize: true }
    }

    /// As `--pooler-config` says, an object of vLLM's names.
    fn changed(self, text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("--pooler-config is {text}, {why}");
        if self.kind == PoolingKind::Score {
            return Err(wrong("but the model's own classifier makes scores".to_owned()));
        }
        let expected = r#"an object such as {"pooling_type": "MEAN", "normalize": true} is needed"#;
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|_| wrong(expected.to_owned()))?;
        let mut pooling = self;
        for (name, value) in &object {
            match (name.as_str(), value) {
                ("pooling_type" | "seq_pooling_type", Value::String(kind)) => {
                    let found = PoolingKind::TABLE.iter().find(|(_, name)| name == kind);
                    let Some((kind, _)) = found else {
                        return Err(wrong(format!("{name} can be CLS, LAST or MEAN")));
                    };
                    pooling.kind = *kind;
                }
                ("normalize" | "use_activation", Value::Bool(normalize)) => {
                    pooling.normalize = *normalize;
                }
                _ => return Err(wrong(format!("{name} is not understood: {expected}"))),
            }
        }
        Ok(pooling)
    }
}

/// Whether embeddings were asked for, if anything was said.
fn asked(flags: &EngineFlags) -> Result<Option<bool>, String> {
    let runner = match flags.runner.as_deref() {
        None | Some("auto") => None,
        Some("generate") => Some(false),
        Some("pooling") => Some(true),
        Some(other) => {
            return Err(format!("--runner is {other}, auto, generate and pooling are possible"));
        }
    };
    let task = match flags.task.as_deref() {
        None | Some("auto") => None,
        Some("generate") => Some(false),
        Some("embed" | "embedding") => Some(true),
        Some(other) => {
            return Err(format!("--task is {other}, auto, generate and embed are possible"));
        }
    };
    match (runner, task) {
        (Some(runner), Some(task)) if runner != task => {
            Err("--runner and --task say different things: one of them is enough".to_owned())
        }
        (runner, task) => Ok(runner.or(task)),
    }
}

impl PoolingKind {
    /// Those that can be chosen, with their names.
    pub const TABLE: [(Self, &'static str); 3] =
        [(Self::Cls, "CLS"), (Self::Last, "LAST"), (Self::Mean, "MEAN")];

    /// Whether every state of a text is needed, and so all of them in one step. The last one is
    /// there once the text's end is computed, however it was cut.
    pub const fn needs_all(self) -> bool {
        !matches!(self, Self::Last)
    }
}

const MODE: &str = "pooling_mode_";
/// These files have some hundred bytes.
const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(modules: &str, pooling: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("1_Pooling")).expect("a folder in it");
        fs::write(folder.path().join("modules.json"), modules).expect("a file");
        fs::write(folder.path().join("1_Pooling/config.json"), pooling).expect("a file");
        folder
    }

    const USUAL: &str = r#"[
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;

    #[test]
    fn files_are_read_and_what_is_unknown_is_named() {
        let cls = r#"{"word_embedding_dimension": 8, "pooling_mode_cls_token": true,
            "pooling_mode_mean_tokens": false}"#;
        let good = folder(USUAL, cls);
        let found = SentenceFiles::load(good.path()).expect("it is right").expect("it is there");
        assert_eq!(found.pooling, Pooling { kind: PoolingKind::Cls, normalize: false });
        assert_eq!(found.max_tokens, None);
        fs::write(good.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 7}"#)
            .expect("a file");
        let found = SentenceFiles::load(good.path()).expect("it is right").expect("it is there");
        assert_eq!(found.max_tokens, Some(7));
        assert_eq!(SentenceFiles::load(Path::new("/nowhere")).expect("it is no such model"), None);

        let wrong = |modules: &str, pooling: &str| {
            let folder = folder(modules, pooling);
            SentenceFiles::load(folder.path()).expect_err("it is wrong").to_string()
        };
        let two = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#;
        assert!(wrong(USUAL, two).contains("exactly one mode must be true, 2 are"));
        assert!(wrong(USUAL, "{}").contains("exactly one mode must be true, 0 are"));
        let other = wrong(USUAL, r#"{"pooling_mode_max_tokens": true}"#);
        assert!(other.contains("`pooling_mode_max_tokens` is true"), "{other}");
        let dense = USUAL.replace("models.Pooling", "models.Dense");
        assert!(wrong(&dense, cls).contains("models.Dense"));
        let outside = USUAL.replace("1_Pooling\"", "../1_Pooling\"");
        assert!(wrong(&outside, cls).contains("`path`"));
        assert!(wrong("{}", cls).contains("modules.json"));
    }

    #[test]
    fn flags_change_what_files_say() {
        let own = Pooling { kind: PoolingKind::Mean, normalize: false };
        let changed = own.changed(r#"{"pooling_type": "LAST", "normalize": true}"#);
        assert_eq!(changed, Ok(Pooling { kind: PoolingKind::Last, normalize: true }));
        for bad in [r#"{"pooling_type": "MAX"}"#, r#"{"dimensions": 3}"#, "[]", "LAST"] {
            let why = own.changed(bad).expect_err(bad);
            assert!(why.contains("--pooler-config") && why.contains(bad), "{why}");
        }
        let flags = |runner: Option<&str>, task: Option<&str>| EngineFlags {
            runner: runner.map(str::to_owned),
            task: task.map(str::to_owned),
            ..EngineFlags::default()
        };
        assert_eq!(asked(&flags(None, Some("auto"))), Ok(None));
        assert_eq!(asked(&flags(Some("pooling"), None)), Ok(Some(true)));
        assert_eq!(asked(&flags(None, Some("embed"))), Ok(Some(true)));
        assert_eq!(asked(&flags(Some("generate"), Some("auto"))), Ok(Some(false)));
        assert!(asked(&flags(Some("generate"), Some("embed"))).is_err());
        assert!(asked(&flags(Some("draft"), None)).is_err_and(|why| why.contains("draft")));
        assert!(asked(&flags(None, Some("reward"))).is_err_and(|why| why.contains("reward")));
    }
}
