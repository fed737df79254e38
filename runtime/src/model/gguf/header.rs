//! The header of a GGUF file: magic, version, key-value pairs, and where each tensor lies.
//!
//! Every count and length in it is what somebody wrote. None is trusted: nothing is reserved for a
//! count, a length is held against the bytes that are left, and tensors must lie within the file
//! and apart from each other.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{names, wrong};
use crate::model::error::ModelError;

/// A parsed header.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The file.
    pub path: PathBuf,
    pub(super) metadata: BTreeMap<String, Value>,
    /// Tensors by the names that checkpoints on the hub have for them.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' bytes begin.
    pub data: u64,
    /// What rotary frequencies are divided by, if the file says so: a tensor that is no weight.
    pub(super) rope_factors: Vec<f64>,
}

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How elements are stored.
    pub kind: TensorKind,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// First byte, counted from where the data begins.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// Brain floats.
    Bf16,
    /// IEEE halves.
    F16,
    /// IEEE singles.
    F32,
    /// Blocks of 32 four-bit integers and a half.
    Q4_0,
    /// Blocks of 256 four-bit integers with scales and minima for each 32.
    Q4K,
    /// Blocks of 256 six-bit integers with scales for each 16.
    Q6K,
    /// Blocks of 32 bytes and a half.
    Q8_0,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Flag(bool),
    Float(f64),
    Integer(i64),
    /// A list of numbers or flags.
    Numbers(Vec<f64>),
    Text(String),
    Texts(Vec<String>),
}

impl TensorKind {
    /// Kinds with number, name, and elements and bytes of a block.
    pub const TABLE: [(Self, u32, &'static str, u64, u64); 7] = [
        (Self::F32, 0, "F32", 1, 4),
        (Self::F16, 1, "F16", 1, 2),
        (Self::Q4_0, 2, "Q4_0", 32, 18),
        (Self::Q8_0, 8, "Q8_0", 32, 34),
        (Self::Q4K, 12, "Q4_K", 256, 144),
        (Self::Q6K, 14, "Q6_K", 256, 210),
        (Self::Bf16, 30, "BF16", 1, 2),
    ];

    /// The name that llama.cpp has for it.
    pub fn name(self) -> &'static str {
        let row = Self::TABLE.iter().find(|(kind, ..)| *kind == self);
        row.map_or("unknown", |(_, _, name, ..)| name)
    }
}

impl Gguf {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] saying what is wrong, [`ModelError::Read`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let failed = |source| ModelError::Read { file: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut gguf = Self::parse(path, BufReader::new(&file), size)?;
        if let Some(info) = gguf.tensors.remove(ROPE_FACTORS) {
            gguf.rope_factors = factors(&file, gguf.data, &info)
                .map_err(|why| wrong(path, format!("tensor `{ROPE_FACTORS}` {why}")))?;
        }
        Ok(gguf)
    }

    /// Parses a header at the beginning of `size` bytes; `path` is for errors and names only.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn parse(path: &Path, from: impl Read, size: u64) -> Result<Self, ModelError> {
        let mut input = Input { from, left: size };
        read(path, &mut input, size).map_err(|reason| wrong(path, reason))
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&self.path, format!("`{key}` must be a text"))),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(wrong(&self.path, format!("`{key}` must be true or false"))),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<&[String], ModelError> {
        match self.value(key) {
            Some(Value::Texts(texts)) => Ok(texts),
            _ => Err(wrong(&self.path, format!("`{key}` must be a list of texts"))),
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<&[f64]>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Numbers(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(wrong(&self.path, format!("`{key}` must be a list of numbers"))),
        }
    }
}

struct Input<R> {
    from: R,
    left: u64,
}

fn read<R: Read>(path: &Path, input: &mut Input<R>, size: u64) -> Result<Gguf, String> {
    let magic: [u8; 4] = input.array()?;
    if &magic != b"GGUF" {
        return Err("it does not begin with `GGUF`".to_owned());
    }
    let version = input.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is of version {version}; 2 and 3, little-endian, are read"));
    }
    let (tensors, pairs) = (input.count(MIN_TENSOR)?, input.count(MIN_PAIR)?);
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = input.text()?;
        let kind = input.u32()?;
        let value = input.value(kind).map_err(|why| format!("`{key}` {why}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("`{key}` is there twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Integer(number)) if (1..=1 << 20).contains(number) => number.unsigned_abs(),
        Some(other) => return Err(format!("`general.alignment` is {other:?}, which is none")),
    };
    let mut found = BTreeMap::new();
    for _ in 0..tensors {
        let name = input.text()?;
        let info = input.tensor().map_err(|why| format!("tensor `{name}` {why}"))?;
        if !info.offset.is_multiple_of(alignment) {
            return Err(format!("tensor `{name}` begins at {}, unaligned", info.offset));
        }
        if found.insert(names::published(&name), info).is_some() {
            return Err(format!("tensor `{name}` is there twice"));
        }
    }
    let data = (size - input.left).next_multiple_of(alignment);
    check_places(&found, size.saturating_sub(data))?;
    let rope_factors = Vec::new();
    Ok(Gguf { path: path.to_owned(), metadata, tensors: found, data, rope_factors })
}

/// The numbers of a small tensor.
fn factors(mut file: &File, data: u64, info: &TensorInfo) -> Result<Vec<f64>, String> {
    if info.kind != TensorKind::F32 || info.bytes > MAX_FACTORS {
        let (kind, shape) = (info.kind.name(), &info.shape);
        return Err(format!("is of type {kind} and shape {shape:?}; it should be a short F32"));
    }
    let failed = |error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(data.saturating_add(info.offset))).map_err(failed)?;
    file.take(info.bytes).read_to_end(&mut bytes).map_err(failed)?;
    let (numbers, _) = bytes.as_chunks();
    Ok(numbers.iter().map(|number| decimal(f32::from_le_bytes(*number))).collect())
}

/// Fails unless all tensors lie within so many bytes and none shares any.
fn check_places(tensors: &BTreeMap<String, TensorInfo>, size: u64) -> Result<(), String> {
    let mut places: Vec<_> =
        tensors.iter().map(|(name, info)| (info.offset, info.bytes, name)).collect();
    places.sort_unstable();
    let mut end = 0;
    for (offset, bytes, name) in places {
        if offset < end {
            return Err(format!("tensor `{name}` lies over another"));
        }
        end = offset.checked_add(bytes).filter(|end| *end <= size).ok_or_else(|| {
            format!("tensor `{name}` ends beyond the {size} bytes of data: the file is cut short")
        })?;
    }
    Ok(())
}

// === impl Input ===

impl<R: Read> Input<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.left = self.left.checked_sub(N as u64).ok_or("the header is cut short")?;
        self.from.read_exact(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things of at least so many bytes each.
    fn count(&mut self, each: u64) -> Result<u64, String> {
        let count = self.u64()?;
        match count <= self.left / each && count <= MAX_THINGS {
            true => Ok(count),
            false => Err(format!("a count is {count} with {} bytes left", self.left)),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        if len > self.left || len > MAX_TEXT {
            return Err(format!("a text is said to have {len} bytes; {} are left", self.left));
        }
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(len).read_to_end(&mut bytes);
        if read.map_err(|error| format!("cannot be read: {error}"))? as u64 != len {
            return Err("the header is cut short".to_owned());
        }
        self.left -= len;
        String::from_utf8(bytes).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            _ => self.scalar(kind)?,
        })
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(decimal(self.array().map(f32::from_le_bytes)?)),
            7 => match self.array::<1>()? {
                [flag @ 0..=1] => Value::Flag(flag == 1),
                [other] => return Err(format!("is {other} and should be true or false")),
            },
            10 => match i64::try_from(self.u64()?) {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err("is larger than any number that makes sense".to_owned()),
            },
            11 => Value::Integer(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            other => return Err(format!("is of type {other}, which there is none")),
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        if kind == 8 {
            let count = self.count(8)?;
            return (0..count).map(|_| self.text()).collect::<Result<_, _>>().map(Value::Texts);
        }
        let count = self.count(1)?;
        let number = |value| match value {
            Value::Flag(flag) => Ok(f64::from(u8::from(flag))),
            Value::Float(number) => Ok(number),
            Value::Integer(number) => Ok(number as f64),
            Value::Numbers(_) | Value::Text(_) | Value::Texts(_) => {
                Err("is a list of lists".to_owned())
            }
        };
        let each = (0..count).map(|_| self.scalar(kind).and_then(number));
        each.collect::<Result<_, _>>().map(Value::Numbers)
    }

    fn tensor(&mut self) -> Result<TensorInfo, String> {
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(format!("has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible"));
        }
        // The file has the innermost first.
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..dimensions {
            let size = self.u64()?;
            let product = elements.checked_mul(size).filter(|all| *all <= MAX_ELEMENTS);
            elements = product.ok_or("has more elements than any model")?;
            shape.insert(0, size as usize);
        }
        let number = self.u32()?;
        let row = TensorKind::TABLE.iter().find(|(_, known, ..)| *known == number);
        let Some((kind, _, _, block, bytes)) = row else {
            let known = TensorKind::TABLE.map(|(_, _, name, ..)| name).join(", ");
            return Err(format!("is of type number {number}; {known} are read"));
        };
        let innermost = shape.last().copied().unwrap_or_default() as u64;
        if !innermost.is_multiple_of(*block) {
            return Err(format!("has rows of {innermost}, which are no whole blocks of {block}"));
        }
        let bytes = elements / block * bytes;
        Ok(TensorInfo { kind: *kind, shape, offset: self.u64()?, bytes })
    }
}

/// A single as whoever wrote it meant it: 1e-5, not the nearest `f32`'s other digits.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// The tensor by which Llama 3.1 and later stretch their rotary frequencies.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Bytes of them: heads are no larger than some hundred elements.
const MAX_FACTORS: u64 = 4 << 10;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
/// Some hundred times the largest published model's largest tensor.
const MAX_ELEMENTS: u64 = 1 << 42;
/// Bytes of the shortest tensor's description: name, dimensions, one size, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
/// Bytes of the shortest pair: key, type, one byte.
const MIN_PAIR: u64 = 8 + 4 + 1;
/// The largest vocabularies have a quarter of a million tokens and as many merges.
const MAX_THINGS: u64 = 1 << 24;
/// Chat templates reach some ten KiB.
const MAX_TEXT: u64 = 16 << 20;
