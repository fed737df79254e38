//! `adapter_config.json`, as PEFT writes it, as a typed value.
//!
//! PEFT has many relatives of LoRA. What would change the arithmetic and is not implemented is
//! refused by name: an adapter that is half understood answers fluently and wrongly.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DeviceError;

/// What an adapter says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rows of each first factor.
    pub rank: usize,
    /// What the product of both factors is multiplied by.
    pub scaling: f32,
    /// Which products it adds to.
    pub modules: Modules,
    /// The layers that it is on, if not all.
    pub layers: Option<Vec<usize>>,
    /// The model that it was made for, as its maker named it; for people.
    pub base: Option<String>,
}

/// Which products an adapter adds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modules {
    /// Those whose names end with one of these.
    Named(Vec<String>),
    /// All.
    All,
    /// A pattern, which is not interpreted: those that the file has.
    InFile,
}

impl AdapterConfig {
    /// Parses the bytes of an `adapter_config.json`; `file` is for errors only.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] naming every field that cannot be served, what stands there and
    /// what could.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, DeviceError> {
        let refuse = |why: String| DeviceError::Weights { path: file.to_owned(), why };
        let map: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| refuse(format!("is no JSON object: {error}")))?;
        let mut wrong = unsupported(&map);
        let mut note = |name: &str, expected: &str| {
            let found = map.get(name).unwrap_or(&Value::Null);
            wrong.push(format!("`{name}` is {}, {expected}", shown(found)));
        };
        let rank =
            map.get("r").and_then(Value::as_u64).filter(|rank| (1..=MAX_RANK).contains(rank));
        if rank.is_none() {
            note("r", &format!("it must be a whole number from 1 to {MAX_RANK}"));
        }
        let alpha = map.get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite());
        if alpha.is_none() {
            note("lora_alpha", "it must be a number");
        }
        let layers = layers(&map);
        if layers.is_none() {
            note("layers_to_transform", "it must be a layer or a list of layers");
        }
        let modules = modules(&map);
        if modules.is_none() {
            note("target_modules", "it must be a list of names of modules, or a pattern");
        }
        let (Some(rank), Some(alpha), Some(layers), Some(modules), true) =
            (rank, alpha, layers, modules, wrong.is_empty())
        else {
            return Err(refuse(wrong.join("; ")));
        };
        let is_stabilized = map.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        // The rank is far below what an f64 holds exactly.
        let divisor = if is_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Self {
            rank: rank as usize,
            scaling: (alpha / divisor) as f32,
            modules,
            layers,
            base: map.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
        })
    }

    /// Whether the product `module` of layer `layer`, such as `self_attn.q_proj`, must be there.
    /// `None` where the config does not say.
    pub fn wants(&self, layer: usize, module: &str) -> Option<bool> {
        if self.layers.as_ref().is_some_and(|layers| !layers.contains(&layer)) {
            return Some(false);
        }
        match &self.modules {
            Modules::All => Some(true),
            Modules::InFile => None,
            Modules::Named(names) => Some(names.iter().any(|name| is_named(module, name))),
        }
    }
}

/// Whether a product's name ends with this one, as a whole or after a dot.
pub(super) fn is_named(module: &str, name: &str) -> bool {
    let rest = module.strip_suffix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What is not served, of all fields at once.
fn unsupported(map: &Map<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |name: &str, is_fine: fn(&Value) -> bool, served: &str| {
        if let Some(value) = map.get(name).filter(|value| !is_fine(value)) {
            wrong.push(format!("`{name}` is {}, {served} is served", shown(value)));
        }
    };
    check("peft_type", |value| value == "LORA", "LORA");
    check("bias", |value| value.is_null() || value == "none", "none");
    for name in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "alora_invocation_tokens"]
    {
        check(name, |value| value.is_null() || value == &Value::Bool(false), "false");
    }
    for name in [
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "exclude_modules",
    ] {
        check(name, is_empty, "nothing");
    }
    wrong
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `Some(None)` is all layers, `None` is a mistake.
fn layers(map: &Map<String, Value>) -> Option<Option<Vec<usize>>> {
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    match map.get("layers_to_transform") {
        None | Some(Value::Null) => Some(None),
        Some(Value::Array(list)) => list.iter().map(number).collect::<Option<_>>().map(Some),
        Some(one) => Some(Some(vec![number(one)?])),
    }
}

fn modules(map: &Map<String, Value>) -> Option<Modules> {
    match map.get("target_modules")? {
        Value::String(pattern) if pattern == "all-linear" => Some(Modules::All),
        Value::String(_) => Some(Modules::InFile),
        Value::Array(list) if !list.is_empty() => {
            let name = |value: &Value| value.as_str().map(str::to_owned);
            list.iter().map(name).collect::<Option<_>>().map(Modules::Named)
        }
        _ => None,
    }
}

/// A value as people are shown it: not more than a line of it.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The largest rank that any limit allows.
pub const MAX_RANK: u64 = 512;
/// Characters of a wrong value that are shown.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(changes: Value) -> Result<AdapterConfig, String> {
        let mut config = json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none",
            "target_modules": ["q_proj", "mlp.up_proj"], "use_rslora": false,
            "base_model_name_or_path": "org/base", "rank_pattern": {}, "modules_to_save": null,
        });
        let Value::Object(changes) = changes else { panic!("changes are an object") };
        config.as_object_mut().unwrap().extend(changes);
        let bytes = serde_json::to_vec(&config).unwrap();
        AdapterConfig::parse(Path::new("adapter_config.json"), &bytes)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn scaling_is_alpha_by_rank_or_by_its_root() {
        assert_eq!(parse(json!({})).unwrap().scaling, 2.0);
        let stabilized = parse(json!({"use_rslora": true, "r": 4, "lora_alpha": 8.0})).unwrap();
        assert_eq!((stabilized.scaling, stabilized.rank), (4.0, 4));
    }

    #[test]
    fn names_are_ends_of_names() {
        let config = parse(json!({"layers_to_transform": [0, 2]})).unwrap();
        assert_eq!(config.wants(0, "self_attn.q_proj"), Some(true));
        assert_eq!(config.wants(2, "mlp.up_proj"), Some(true));
        assert_eq!(config.wants(1, "mlp.up_proj"), Some(false));
        assert_eq!(config.wants(0, "self_attn.up_proj"), Some(false));
        assert_eq!(config.wants(0, "self_attn.xq_proj"), Some(false));
        let all = parse(json!({"target_modules": "all-linear"})).unwrap();
        assert_eq!(all.wants(5, "self_attn.o_proj"), Some(true));
        let pattern = parse(json!({"target_modules": ".*q_proj"})).unwrap();
        assert_eq!(pattern.wants(5, "self_attn.o_proj"), None);
    }

    #[test]
    fn what_is_not_served_is_named_all_at_once() {
        let error = parse(json!({
            "use_dora": true, "bias": "all", "modules_to_save": ["lm_head"],
            "rank_pattern": {"q_proj": 4}, "r": 0, "target_modules": null,
        }))
        .unwrap_err();
        for part in [
            "`use_dora` is true, false is served",
            "`bias` is \"all\", none is served",
            "`modules_to_save` is [\"lm_head\"], nothing is served",
            "`rank_pattern` is {\"q_proj\":4}, nothing is served",
            "`r` is 0, it must be a whole number from 1 to 512",
            "`target_modules` is null",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let other = parse(json!({"peft_type": "IA3"})).unwrap_err();
        assert!(other.contains("`peft_type` is \"IA3\", LORA is served"), "{other}");
    }
}
