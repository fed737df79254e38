//! The files of a model's folder, by what they are for, and the digests of what they hold.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    id::Digest,
    model::{
        error::ModelError,
        gguf::{self, Gguf},
        json,
    },
};

/// What a model's folder holds. Optional files are there if they are `Some`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    /// `generation_config.json`.
    pub generation_config: Option<PathBuf>,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<PathBuf>,
    /// `chat_template.jinja`, which goes before a template in `tokenizer_config.json`.
    pub chat_template: Option<PathBuf>,
    /// The weight files, sorted by name; empty if only the text side was looked for.
    pub weights: Vec<PathBuf>,
}

impl ModelFiles {
    /// Looks a folder through.
    ///
    /// # Errors
    /// [`ModelError::Missing`] naming the file that a model cannot do without.
    pub fn find(folder: &Path) -> Result<Self, ModelError> {
        let text = Self::find_text(folder)?;
        match text.weights.is_empty() {
            true => Ok(Self { weights: weights(folder)?, ..text }),
            false => Ok(text),
        }
    }

    /// The same without the weights, which need not be there; a GGUF file is all in one.
    ///
    /// # Errors
    /// [`ModelError::Missing`] naming the file that a model cannot do without.
    pub fn find_text(folder: &Path) -> Result<Self, ModelError> {
        if gguf::is_gguf(folder) && folder.is_file() {
            return Ok(Self::of_gguf(folder));
        }
        let optional = |name: &str| Some(folder.join(name)).filter(|file| file.is_file());
        let missing =
            |what: &str| ModelError::Missing { folder: folder.to_owned(), what: what.to_owned() };
        let config = optional("config.json").ok_or_else(|| missing("`config.json`"))?;
        let tokenizer = optional("tokenizer.json").ok_or_else(|| {
            missing(
                "`tokenizer.json`; other tokenizer files are not read, but transformers' \
                 `save_pretrained` of a fast tokenizer makes it from them",
            )
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            generation_config: optional("generation_config.json"),
            tokenizer,
            tokenizer_config: optional("tokenizer_config.json"),
            special_tokens_map: optional("special_tokens_map.json"),
            chat_template: optional("chat_template.jinja"),
            weights: Vec::new(),
        })
    }

    /// One file that is all of them.
    fn of_gguf(file: &Path) -> Self {
        Self {
            folder: file.to_owned(),
            config: file.to_owned(),
            generation_config: None,
            tokenizer: file.to_owned(),
            tokenizer_config: Some(file.to_owned()),
            special_tokens_map: None,
            chat_template: None,
            weights: vec![file.to_owned()],
        }
    }

    /// The model's digest: config, and of each weight file its name, size, header and a sample of
    /// its bytes. Reads little whatever the weights' size, so it tells models apart but does not
    /// prove that a file is whole.
    ///
    /// # Errors
    /// [`ModelError`] if a file cannot be read.
    pub fn model_digest(&self) -> Result<Digest, ModelError> {
        let mut digest = ModelDigest::begin(self)?;
        for path in &self.weights {
            let mut read = || -> std::io::Result<()> {
                let mut file = File::open(path)?;
                let size = file.metadata()?.len();
                let mut part = |range: Range<u64>| -> std::io::Result<Vec<u8>> {
                    let mut bytes = Vec::new();
                    file.seek(SeekFrom::Start(range.start))?;
                    file.by_ref().take(range.end - range.start).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                let header = WeightParts::header(size, &part(WeightParts::prefix(size))?);
                let mut parts = vec![part(header.clone())?];
                for sample in WeightParts::samples(size, &header) {
                    parts.push(part(sample)?);
                }
                let name = path.file_name().unwrap_or_default();
                digest.absorb(name.as_encoded_bytes(), size, &parts);
                Ok(())
            };
            read().map_err(|source| ModelError::Read { file: path.clone(), source })?;
        }
        Ok(digest.finish())
    }

    /// The tokenizer's digest: the content of the files that decide which ids a text becomes.
    ///
    /// # Errors
    /// [`ModelError`] if a file cannot be read.
    pub fn tokenizer_digest(&self) -> Result<Digest, ModelError> {
        let mut hasher = blake3::Hasher::new();
        if gguf::is_gguf(&self.tokenizer) {
            absorb(&mut hasher, &Gguf::open(&self.tokenizer)?.tokenizer()?);
            return Ok(Digest(*hasher.finalize().as_bytes()));
        }
        let files = [Some(&self.tokenizer), self.tokenizer_config.as_ref()];
        for file in files.into_iter().flatten() {
            absorb(&mut hasher, &json::read_bounded(file, MAX_TOKENIZER_BYTES)?);
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }
}

/// The weight files: those that the index names, else `model.safetensors`, else all there are.
fn weights(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let missing = |what| ModelError::Missing { folder: folder.to_owned(), what };
    let index = folder.join(INDEX);
    if index.is_file() {
        let files: Vec<_> = indexed(&index)?.into_iter().map(|name| folder.join(name)).collect();
        if let Some(file) = files.iter().find(|file| !file.is_file()) {
            let name = file.file_name().unwrap_or_default().display();
            return Err(missing(format!(
                "`{name}`, which its index names; the copy is incomplete"
            )));
        }
        return Ok(files);
    }
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let unreadable = |source| ModelError::Read { file: folder.to_owned(), source };
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            files.insert(path);
        }
    }
    match files.is_empty() {
        false => Ok(files.into_iter().collect()),
        true => Err(missing(
            "weights: a `model.safetensors`, or several with `model.safetensors.index.json`; \
             other formats are not read"
                .to_owned(),
        )),
    }
}

/// The names of the weight files of a model of which only the text side is here, where its source
/// has files of these names.
pub(crate) fn weight_names<'a>(
    folder: &Path,
    there: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<String>, ModelError> {
    let index = folder.join(INDEX);
    if index.is_file() {
        return indexed(&index);
    }
    let all: BTreeSet<_> = there.filter(|name| name.ends_with(".safetensors")).collect();
    match all.contains(SINGLE) {
        true => Ok(BTreeSet::from([SINGLE.to_owned()])),
        false => Ok(all.into_iter().map(str::to_owned).collect()),
    }
}

/// The names of the files in an index, each once.
fn indexed(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let map = json::parse_object(index, &json::read_bounded(index, MAX_SMALL_BYTES)?)?;
    let fields = json::Fields::new(index, &map);
    let expected = "it must be an object of tensor names, each with the name of a file beside it";
    let names = map.get("weight_map").and_then(Value::as_object).filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| fields.wrong("weight_map", expected))?;
    // A name with a path in it would reach out of the folder.
    let is_plain = |name: &&str| {
        name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
    };
    names
        .values()
        .map(|name| name.as_str().filter(is_plain).map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| fields.wrong("weight_map", expected))
}

/// Hashes bytes after their length, so that no two lists of parts look alike.
fn absorb(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// A model's digest in the making: config, then of each weight file, in their order, its name,
/// size, header and samples. Fine-tunes of one model have equal headers and sizes, so without the
/// samples they would be taken for each other. Files may be anywhere that ranges of them can be
/// read.
pub(crate) struct ModelDigest(blake3::Hasher);

impl ModelDigest {
    pub(crate) fn begin(files: &ModelFiles) -> Result<Self, ModelError> {
        let mut hasher = blake3::Hasher::new();
        if !gguf::is_gguf(&files.config) {
            absorb(&mut hasher, &json::read_bounded(&files.config, MAX_SMALL_BYTES)?);
        }
        Ok(Self(hasher))
    }

    /// `parts` are the header and the samples.
    pub(crate) fn absorb(&mut self, name: &[u8], size: u64, parts: &[Vec<u8>]) {
        absorb(&mut self.0, name);
        self.0.update(&size.to_le_bytes());
        parts.iter().for_each(|part| absorb(&mut self.0, part));
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Which parts of a weight file are hashed.
pub(crate) struct WeightParts;

impl WeightParts {
    /// Where the header's length stands.
    pub(crate) fn prefix(size: u64) -> Range<u64> {
        0..size.min(8)
    }

    /// Where the header is, by what stands in the prefix.
    pub(crate) fn header(size: u64, prefix: &[u8]) -> Range<u64> {
        let length = prefix.try_into().map_or(0, u64::from_le_bytes);
        let begin = size.min(8);
        begin..begin + length.min(size - begin).min(MAX_HEADER_BYTES)
    }

    /// Where the samples are.
    pub(crate) fn samples(size: u64, header: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (begin, data) = (header.end, size - header.end);
        (0..SAMPLES).map(move |sample| {
            let at = begin + data / SAMPLES * sample;
            at..size.min(at + SAMPLE_BYTES)
        })
    }
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Configs and indices; the index of the largest published model has 10 MiB.
const MAX_SMALL_BYTES: u64 = 64 << 20;
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// 16 samples of 4 KiB fall into that many tensors even of a large file and cost one read each.
const SAMPLES: u64 = 16;
const SAMPLE_BYTES: u64 = 4096;
