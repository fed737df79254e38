//! An adapter's files: `adapter_config.json` and `adapter_model.safetensors`, checked as a whole
//! against the model that it is for. Everything that does not fit is said at once, because an
//! adapter of another base has hundreds of tensors and each of them is wrong in the same way.
//!
//! The file stays mapped for as long as the adapter is known, so that a copy that was given up can
//! be made again whatever has become of the folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use troupe_runtime::{id::Digest, model::config::ModelConfig};

use super::{
    config::{AdapterConfig, Modules, is_named},
    targets::{self, Target},
};
use crate::{dtype::Dtype, error::DeviceError, weights::safetensors::TensorFile};

/// An adapter that fits its model.
#[derive(Debug)]
pub struct Adapter {
    digest: Digest,
    /// None of one that only has a name.
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    config: AdapterConfig,
    file: TensorFile,
    /// The products that it adds to, by name without prefix (`layers.0.self_attn.q_proj`), each
    /// with the beginning of its tensors' names.
    products: BTreeMap<String, String>,
}

/// Which factor a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Factor {
    /// The first, `A`.
    Down,
    /// The second, `B`.
    Up,
}

impl Adapter {
    /// Opens the adapter in `folder` for a model of this config.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] that lists what is wrong: files, fields, tensors that are missing,
    /// have no use, or are of another shape, or a rank beyond `max_rank`.
    pub fn open(folder: &Path, model: &ModelConfig, max_rank: usize) -> Result<Self, DeviceError> {
        let path = folder.join(CONFIG);
        let bytes = read(&path)?;
        let config = AdapterConfig::parse(&path, &bytes)?;
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            let why = match folder.join(PICKLE).is_file() {
                true => format!("there is {PICKLE}, but only {WEIGHTS} is read"),
                false => format!("there is no {WEIGHTS}"),
            };
            return Err(DeviceError::Weights { path: folder.to_owned(), why });
        }
        let file = TensorFile::open(weights)?;
        let mut wrong = Vec::new();
        if config.rank > max_rank {
            let rank = config.rank;
            wrong.push(format!("its rank is {rank}, --max-lora-rank allows up to {max_rank}"));
        }
        let products = check(&config, &file, model, &mut wrong);
        if !wrong.is_empty() {
            return Err(refusal(folder.to_owned(), &config, &wrong));
        }
        let digest = Digest::of(&[Digest::of(&bytes).0, Digest::of(file.bytes()).0].concat());
        Ok(Self { digest, content: Some(Content { config, file, products }) })
    }

    /// An adapter without tensors, for executors that have none either.
    pub fn hollow(digest: Digest) -> Self {
        Self { digest, content: None }
    }

    /// What it says of itself; nothing, if it is hollow.
    pub fn config(&self) -> Option<&AdapterConfig> {
        self.content.as_ref().map(|content| &content.config)
    }

    /// The digest of both files.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Both factors of what it adds to a product, named without prefix, as `[rank, in]` and
    /// `[out, rank]`; `None` if it adds nothing.
    ///
    /// # Errors
    /// [`DeviceError::Weights`], though everything was there when it was opened.
    pub(super) fn factors(&self, product: &str) -> Result<Option<[Vec<f32>; 2]>, DeviceError> {
        let Some(Content { file, products, .. }) = &self.content else { return Ok(None) };
        let Some(name) = products.get(product) else { return Ok(None) };
        let read = |factor| {
            let tensor = file.tensor(&tensor_name(name, factor))?;
            let count = tensor.bytes.len() / tensor.dtype.size();
            let values = (0..count).map(|at| tensor.dtype.read(tensor.bytes, at));
            Ok::<Vec<f32>, DeviceError>(values.collect())
        };
        Ok(Some([read(Factor::Down)?, read(Factor::Up)?]))
    }
}

/// Compares every tensor with what the model has; gives the products that there are.
fn check(
    config: &AdapterConfig,
    file: &TensorFile,
    model: &ModelConfig,
    wrong: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let layers: Vec<_> =
        (0..model.num_layers).map(|layer| targets::of_layer(model, layer)).collect();
    let mut found: BTreeMap<String, (String, BTreeSet<Factor>)> = BTreeMap::new();
    for tensor in file.names() {
        let Some((name, product, factor)) = parts_of(tensor) else {
            wrong.push(format!("tensor `{tensor}` is no factor of an adapter: {}", hint(tensor)));
            continue;
        };
        let Some(target) = find(&layers, product) else {
            wrong.push(format!("tensor `{tensor}`: {}", no_place(&layers, product)));
            continue;
        };
        let expected = match factor {
            Factor::Down => [config.rank, target.inputs],
            Factor::Up => [target.outputs, config.rank],
        };
        let entry = found.entry(product.to_owned());
        let (first, factors) = entry.or_insert_with(|| (name.to_owned(), BTreeSet::new()));
        factors.insert(factor);
        if first.as_str() != name {
            wrong.push(format!("{product} is there by two names, `{first}` and `{name}`"));
        }
        match file.tensor(tensor) {
            Err(DeviceError::Weights { why, .. }) => wrong.push(why),
            Err(other) => wrong.push(other.to_string()),
            Ok(own) if own.shape != expected => wrong.push(format!(
                "tensor `{tensor}` has shape {:?}, rank and model imply {expected:?}",
                own.shape
            )),
            Ok(own) if !is_finite(own.dtype, own.bytes) => {
                wrong.push(format!("tensor `{tensor}` has values that are no finite numbers"));
            }
            Ok(_) => {}
        }
    }
    for (product, (name, factors)) in &found {
        for factor in [Factor::Down, Factor::Up] {
            if !factors.contains(&factor) {
                wrong.push(format!("tensor `{}` is missing", tensor_name(name, factor)));
            }
        }
        let (layer, module) = split(product).unwrap_or_default();
        if config.wants(layer, module) == Some(false) {
            wrong.push(format!("{product} has tensors, but is not among the config's targets"));
        }
    }
    missing(config, &layers, &found, wrong);
    found.into_iter().map(|(product, (name, _))| (product, name)).collect()
}

/// Notes the targets that have no tensors, and the names that are nobody's.
fn missing(
    config: &AdapterConfig,
    layers: &[Vec<Target>],
    found: &BTreeMap<String, (String, BTreeSet<Factor>)>,
    wrong: &mut Vec<String>,
) {
    for (layer, targets) in layers.iter().enumerate() {
        for target in targets {
            let product = format!("layers.{layer}.{}", target.module);
            if config.wants(layer, target.module) == Some(true) && !found.contains_key(&product) {
                wrong.push(format!("the factors of {product} are missing"));
            }
        }
    }
    let Modules::Named(names) = &config.modules else { return };
    for name in names {
        if !layers.iter().flatten().any(|target| is_named(target.module, name)) {
            wrong.push(format!("target module {name} is none that adapters can be on here"));
        }
    }
}

fn refusal(path: PathBuf, config: &AdapterConfig, wrong: &[String]) -> DeviceError {
    let listed = wrong[..wrong.len().min(LISTED)].join("; ");
    let more = match wrong.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let base = match &config.base {
        Some(base) => format!(" (it was made for {base})"),
        None => String::new(),
    };
    DeviceError::Weights { path, why: format!("{listed}{more}{base}") }
}

/// `layers.N.module` as number and module.
fn split(product: &str) -> Option<(usize, &str)> {
    let (number, module) = product.strip_prefix("layers.")?.split_once('.')?;
    Some((number.parse().ok()?, module))
}

fn find<'a>(layers: &'a [Vec<Target>], product: &str) -> Option<&'a Target> {
    let (layer, module) = split(product)?;
    layers.get(layer)?.iter().find(|target| target.module == module)
}

fn no_place(layers: &[Vec<Target>], product: &str) -> String {
    match split(product) {
        Some((layer, _)) if layer >= layers.len() => {
            format!("there is no layer {layer}, the model has {}", layers.len())
        }
        _ => format!("{product} is none that adapters can be on in this model"),
    }
}

/// A tensor's name: its beginning, the product that it is of, and which factor it is. The second of
/// the two prefixes that PEFT puts in front is the model's own and need not be there.
fn parts_of(tensor: &str) -> Option<(&str, &str, Factor)> {
    let (name, factor) = match tensor.strip_suffix(".lora_A.weight") {
        Some(name) => (name, Factor::Down),
        None => (tensor.strip_suffix(".lora_B.weight")?, Factor::Up),
    };
    let product = name.strip_prefix("base_model.model.")?;
    Some((name, product.strip_prefix("model.").unwrap_or(product), factor))
}

fn tensor_name(name: &str, factor: Factor) -> String {
    match factor {
        Factor::Down => format!("{name}.lora_A.weight"),
        Factor::Up => format!("{name}.lora_B.weight"),
    }
}

/// What a tensor seems to be for.
fn hint(tensor: &str) -> &'static str {
    let hints = [
        ("lora_magnitude_vector", "magnitudes (DoRA) are not served"),
        ("lora_embedding_", "adapters on embeddings are not served"),
        (".bias", "biases are not served"),
        ("lm_head", "adapters on the output head are not served"),
        ("embed_tokens", "adapters on embeddings are not served"),
    ];
    let known = hints.iter().find(|(part, _)| tensor.contains(part));
    known.map_or(
        "`base_model.model.<product>.lora_A.weight` and `.lora_B.weight` are",
        |(_, hint)| hint,
    )
}

fn is_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    (0..bytes.len() / dtype.size()).all(|at| dtype.read(bytes, at).is_finite())
}

fn read(path: &Path) -> Result<Vec<u8>, DeviceError> {
    let fail = |why| DeviceError::Weights { path: path.to_owned(), why };
    let file = File::open(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(format!("cannot be read: {error}")))?;
    match bytes.len() as u64 > MAX_CONFIG_BYTES {
        true => Err(fail(format!("is longer than {MAX_CONFIG_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
/// Configs are a kilobyte or two.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// What is listed at most: enough to see what is wrong, little enough to be read.
const LISTED: usize = 40;
