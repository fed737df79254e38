//! One safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes.
//!
//! Everything is checked before anything is lent out: the header's length is bounded, each tensor
//! lies within the file, is as long as its shape and type say, and overlaps no other. Tensors of
//! types that we do not compute with (integers, packed formats) are given as they are to who asks
//! for those; asking for them as floats is an error.

use std::{collections::BTreeMap, fmt, ops::Range, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use troupe_runtime::model::gguf::{self, Gguf, TensorInfo};

use super::map::FileMap;
use crate::{dtype::Dtype, error::DeviceError};

/// A mapped file with a checked header.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: FileMap,
    /// Where the tensors' bytes begin.
    data: usize,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor as it lies in its file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Row-major, little-endian; exactly as long as type and shape say.
    pub bytes: &'a [u8],
    /// What the bytes are borrowed from.
    pub(crate) map: &'a FileMap,
}

/// A tensor of any type, as it lies in its file.
#[derive(Clone, Copy, Debug)]
pub struct RawTensor<'a> {
    /// Element type as the header names it.
    pub dtype: &'a str,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Row-major, little-endian; exactly as long as type and shape say.
    pub bytes: &'a [u8],
}

/// One tensor of a header, with `data_offsets` counted from the end of the header.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The tensors of a header, each described once.
struct Header(BTreeMap<String, Entry>);

// === impl TensorFile ===

impl TensorFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] naming the file and, if one is at fault, the tensor.
    pub fn open(path: PathBuf) -> Result<Self, DeviceError> {
        let map = FileMap::open(&path)?;
        if gguf::is_gguf(&path) {
            return Self::of_gguf(path, map);
        }
        match parse(map.bytes()) {
            Ok((data, tensors)) => Ok(Self { path, map, data, tensors }),
            Err(why) => Err(DeviceError::Weights { path, why }),
        }
    }

    /// The tensors of a GGUF file, by the names that checkpoints have for them.
    fn of_gguf(path: PathBuf, map: FileMap) -> Result<Self, DeviceError> {
        let bytes = map.bytes();
        let header = Gguf::parse(&path, bytes, bytes.len() as u64)
            .map_err(|error| DeviceError::Weights { path: path.clone(), why: error.to_string() })?;
        let entry = |info: TensorInfo| {
            // Within the mapping, so within what an index can be.
            let (start, end) = (info.offset as usize, (info.offset + info.bytes) as usize);
            let dtype = info.kind.name().to_owned();
            Entry { dtype, shape: info.shape, data_offsets: (start, end) }
        };
        let tensors = header.tensors.into_iter().map(|(name, info)| (name, entry(info)));
        Ok(Self { tensors: tensors.collect(), data: header.data as usize, path, map })
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Gives back the memory that its bytes came into. They come in again when they are touched.
    pub fn release(&self) {
        self.map.release();
    }

    /// Whether it has a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if it is not there or of a type that nothing computes with.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, DeviceError> {
        let RawTensor { dtype: found, shape, bytes } = self.raw(name)?;
        let dtype = Dtype::from_safetensors(found).ok_or_else(|| {
            let why =
                format!("tensor `{name}` is of type {found}; F32, F16 and BF16 are supported");
            DeviceError::Weights { path: self.path.clone(), why }
        })?;
        Ok(Tensor { dtype, shape, bytes, map: &self.map })
    }

    /// A tensor of any type.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if it is not there.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>, DeviceError> {
        let entry = self.tensors.get(name).ok_or_else(|| {
            let why = format!("tensor `{name}` is missing");
            DeviceError::Weights { path: self.path.clone(), why }
        })?;
        let (start, end) = entry.data_offsets;
        let bytes = &self.map.bytes()[self.data + start..self.data + end];
        Ok(RawTensor { dtype: &entry.dtype, shape: &entry.shape, bytes })
    }
}

/// Where the data begins, and the tensors.
fn parse(file: &[u8]) -> Result<(usize, BTreeMap<String, Entry>), String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("{} bytes are no safetensors file: no header length", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX || length > rest.len() as u64 {
        return Err(format!(
            "the header is said to have {length} bytes; the file has {} more, and at most \
             {HEADER_BYTES_MAX} are read",
            rest.len()
        ));
    }
    let (header, data) = rest.split_at(length as usize);
    let read = serde_json::from_slice::<Header>(header);
    let Header(tensors) = read.map_err(|error| match error.is_data() {
        true => format!("the header is wrong: {error}"),
        false => format!("the header is not JSON: {error}"),
    })?;
    tensors.iter().try_for_each(|(name, entry)| entry.check(name, data.len()))?;
    check_disjoint(&tensors)?;
    Ok((8 + header.len(), tensors))
}

/// No two tensors share bytes.
fn check_disjoint(tensors: &BTreeMap<String, Entry>) -> Result<(), String> {
    let mut spans: Vec<_> =
        tensors.iter().map(|(name, entry)| (entry.data_offsets, name.as_str())).collect();
    spans.retain(|((start, end), _)| start < end);
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [((_, end), first), ((start, _), second)] = pair else {
            continue;
        };
        if start < end {
            return Err(format!("tensors `{first}` and `{second}` overlap"));
        }
    }
    Ok(())
}

// === impl Header ===

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map.next_value::<Entry>().map_err(|error| {
                A::Error::custom(format!("tensor `{name}` is not described properly: {error}"))
            })?;
            if tensors.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` is described twice")));
            }
            tensors.insert(name, entry);
        }
        Ok(Header(tensors))
    }
}

// === impl Entry ===

impl Entry {
    fn check(&self, name: &str, data_bytes: usize) -> Result<(), String> {
        let Range { start, end } = self.data_offsets.0..self.data_offsets.1;
        if start > end {
            return Err(format!("tensor `{name}` ends at {end}, before its start at {start}"));
        }
        if end > data_bytes {
            return Err(format!(
                "the file is cut short: tensor `{name}` ends at byte {end} of the data, found \
                 {data_bytes} bytes"
            ));
        }
        // Types that we have no size for can only be asked for in vain.
        let Some(bits) = element_bits(&self.dtype) else {
            return Ok(());
        };
        let elements =
            self.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let expected = elements.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
        if expected != Some(end - start) {
            return Err(format!(
                "tensor `{name}` of type {} and shape {:?} has {} bytes",
                self.dtype,
                self.shape,
                end - start
            ));
        }
        Ok(())
    }
}

/// Bits per element of the format's types.
fn element_bits(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" => 64,
        _ => return None,
    })
}

/// The format's own limit: headers of the largest models have a few MB.
const HEADER_BYTES_MAX: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn why(header: &str, data: usize) -> String {
        parse(&file(header, data)).expect_err("a bad header")
    }

    #[test]
    fn a_good_header_is_read() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},
            "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
            "empty":{"dtype":"F32","shape":[0,7],"data_offsets":[16,16]}}"#;
        let (data, tensors) = parse(&file(header, 22)).unwrap();
        assert_eq!(data, 8 + header.len());
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b", "empty"]);
        assert_eq!(tensors["b"].data_offsets, (16, 22));
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(parse(b"short").unwrap_err().contains("no header length"));
        let mut long = file("{}", 0);
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse(&long).unwrap_err().contains("said to have"));
        assert!(parse(&file("{", 0)).unwrap_err().contains("not JSON"));
    }

    #[test]
    fn every_tensor_is_checked() {
        let tensor = |offsets: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#)
        };
        assert!(parse(&file(&tensor("[0,8]"), 8)).is_ok());
        assert!(why(&tensor("[0,8]"), 7).contains("tensor `a` ends at byte 8"));
        assert!(why(&tensor("[8,0]"), 8).contains("before its start"));
        assert!(why(&tensor("[0,4]"), 8).contains("has 4 bytes"));
        assert!(why(&tensor("[-1,4]"), 8).contains("not described"));
        let twice = tensor("[0,8]")
            .replace("}}", "},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
        assert!(why(&twice, 8).contains("tensor `a` is described twice"), "{twice}");
        assert!(why(&"[".repeat(1 << 20), 0).contains("the header is"));
        assert!(
            why(&tensor("[0,8]").replace("[2]", &"[".repeat(1 << 20)), 8).contains("tensor `a`")
        );
        let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#;
        assert!(why(huge, 0).contains("has 0 bytes"));
    }

    #[test]
    fn overlaps_are_refused() {
        let two = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                      "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        assert_eq!(why(two, 12), "tensors `a` and `b` overlap");
    }
}
