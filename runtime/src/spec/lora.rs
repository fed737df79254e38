//! What is said of LoRA adapters: vLLM's flags, from a command line or from a container's `args`,
//! and what `spec.model.lora` says, which becomes the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::service::LoraSpec;

/// The flags; `None` is "not said".
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct LoraFlags {
    /// `--enable-lora`: there is room for adapters. `--lora-modules` says so as well.
    pub enable: Option<bool>,
    /// `--lora-modules`: adapters that are there from the start, in this order.
    pub modules: Vec<LoraModule>,
    /// `--max-loras`: the most in one step.
    pub max_loras: Option<u32>,
    /// `--max-lora-rank`: the largest rank of any.
    pub max_lora_rank: Option<u32>,
    /// `--max-cpu-loras`: the most in the host's memory.
    pub max_cpu_loras: Option<u32>,
}

/// An adapter and where it is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LoraModule {
    /// The name that requests use.
    pub name: String,
    /// A folder, as each host of the group sees it, or whence it is fetched.
    pub path: String,
}

/// How much room there is for adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraRoom {
    /// The most in one step.
    pub max_loras: u32,
    /// The most in the host's memory.
    pub max_cpu_loras: u32,
    /// The largest rank of any.
    pub max_rank: u32,
}

impl LoraFlags {
    /// How much room there is; none if nothing asks for any.
    ///
    /// # Errors
    /// A sentence that names the flag, what was said, and what would be right.
    pub fn room(&self) -> Result<Option<LoraRoom>, String> {
        let wanted = self.enable.unwrap_or(!self.modules.is_empty());
        if !wanted && !self.modules.is_empty() {
            return Err("--lora-modules names adapters, and LoRA is switched off".into());
        }
        if !wanted {
            return Ok(None);
        }
        let max_loras = self.max_loras.unwrap_or(DEFAULT_LORAS);
        let max_cpu_loras = self.max_cpu_loras.unwrap_or(max_loras);
        let max_rank = self.max_lora_rank.unwrap_or(DEFAULT_RANK);
        let bounds = [
            ("--max-loras", max_loras, 1, MOST_LORAS),
            ("--max-lora-rank", max_rank, 1, MOST_RANK),
            ("--max-cpu-loras", max_cpu_loras, max_loras, MOST_CPU_LORAS),
        ];
        for (flag, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(format!("{flag} is {value}, {least} to {most} are possible"));
            }
        }
        for (at, module) in self.modules.iter().enumerate() {
            if self.modules[..at].iter().any(|other| other.name == module.name) {
                return Err(format!("--lora-modules names two adapters {}", module.name));
            }
        }
        Ok(Some(LoraRoom { max_loras, max_cpu_loras, max_rank }))
    }

    /// The same with what a specification says beside: adapters of both, and its numbers where
    /// flags say none.
    #[must_use]
    pub fn with_spec(mut self, spec: Option<&LoraSpec>) -> Self {
        let Some(spec) = spec else { return self };
        self.enable = self.enable.or(Some(true));
        self.max_loras = self.max_loras.or(spec.max_adapters);
        self.max_lora_rank = self.max_lora_rank.or(spec.max_rank);
        self.max_cpu_loras = self.max_cpu_loras.or(spec.max_cpu_adapters);
        let modules = spec.adapters.iter().map(|adapter| LoraModule {
            name: adapter.served_name().to_owned(),
            path: adapter.uri.clone(),
        });
        self.modules.extend(modules);
        self
    }

    /// The flags as they stand in a container's `args`.
    pub(super) fn to_args(&self) -> Vec<String> {
        let numbers = [
            ("--max-loras", self.max_loras),
            ("--max-lora-rank", self.max_lora_rank),
            ("--max-cpu-loras", self.max_cpu_loras),
        ];
        let mut args: Vec<_> = numbers
            .into_iter()
            .filter_map(|(flag, value)| Some(format!("{flag}={}", value?)))
            .collect();
        args.extend(self.enable.map(|on| format!("--enable-lora={on}")));
        if !self.modules.is_empty() {
            args.push(format!("--{LORA_MODULES}"));
            // As JSON, in which a name or a path may have any character.
            args.extend(self.modules.iter().map(LoraModule::to_arg));
        }
        args
    }
}

impl LoraModule {
    /// Reads `name=path`, or `{"name": "...", "path": "..."}`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "must be name=path or {\"name\": \"...\", \"path\": \"...\"}";
        let module = if text.trim_start().starts_with('{') {
            let value: Value = serde_json::from_str(text)
                .map_err(|error| format!("{wanted}, got {text}: {error}"))?;
            let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
            match (field("name"), field("path")) {
                (Some(name), Some(path)) => Self { name, path },
                _ => return Err(format!("{wanted}, got {text}")),
            }
        } else {
            let (name, path) =
                text.split_once('=').ok_or_else(|| format!("{wanted}, got {text}"))?;
            Self { name: name.to_owned(), path: path.to_owned() }
        };
        match module.name.is_empty() || module.path.is_empty() {
            true => Err(format!("{wanted}, neither empty, got {text}")),
            false => Ok(module),
        }
    }

    fn to_arg(&self) -> String {
        serde_json::json!({"name": self.name, "path": self.path}).to_string()
    }
}

pub(super) const LORA_MODULES: &str = "lora-modules";

/// As in vLLM.
const DEFAULT_LORAS: u32 = 1;
const DEFAULT_RANK: u32 = 16;
/// A step groups its rows by adapter; more groups than this leave nothing to group.
const MOST_LORAS: u32 = 1024;
const MOST_CPU_LORAS: u32 = 65_536;
const MOST_RANK: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::service::AdapterSpec;

    fn module(name: &str, path: &str) -> LoraModule {
        LoraModule { name: name.into(), path: path.into() }
    }

    #[test]
    fn modules_are_read_in_both_forms() {
        assert_eq!(LoraModule::parse("a=/b=c"), Ok(module("a", "/b=c")));
        let json = r#"{"name": "a", "path": "/b", "base_model_name": "m"}"#;
        assert_eq!(LoraModule::parse(json), Ok(module("a", "/b")));
        for bad in ["a", "=b", "a=", "{}", "{\"name\": 1}", "{"] {
            assert!(LoraModule::parse(bad).is_err_and(|why| why.contains("name=path")), "{bad}");
        }
        let module = module("a b", "/c \"d\"");
        assert_eq!(LoraModule::parse(&module.to_arg()), Ok(module));
    }

    #[test]
    fn room_is_bounded_and_implied_by_modules() {
        assert_eq!(LoraFlags::default().room(), Ok(None));
        let flags = LoraFlags { modules: vec![module("a", "/a")], ..LoraFlags::default() };
        let room = LoraRoom { max_loras: 1, max_cpu_loras: 1, max_rank: 16 };
        assert_eq!(flags.room(), Ok(Some(room)));
        let off = LoraFlags { enable: Some(false), ..flags.clone() };
        assert!(off.room().is_err_and(|why| why.contains("switched off")));
        let twice = LoraFlags { modules: vec![module("a", "/a"), module("a", "/b")], ..flags };
        assert!(twice.room().is_err_and(|why| why.contains("two adapters a")));
        let few = LoraFlags {
            enable: Some(true),
            max_loras: Some(4),
            max_cpu_loras: Some(3),
            ..LoraFlags::default()
        };
        assert!(few.room().is_err_and(|why| why.contains("--max-cpu-loras is 3, 4 to")));
    }

    #[test]
    fn a_specification_says_the_same() {
        let spec = LoraSpec {
            adapters: vec![
                AdapterSpec { name: None, uri: "file:///models/sql/".into() },
                AdapterSpec { name: Some("b".into()), uri: "/b".into() },
            ],
            max_rank: Some(64),
            max_adapters: Some(2),
            max_cpu_adapters: None,
        };
        let flags = LoraFlags::default().with_spec(Some(&spec));
        let modules = [module("sql", "file:///models/sql/"), module("b", "/b")];
        assert_eq!(flags.modules, modules);
        let room = LoraRoom { max_loras: 2, max_cpu_loras: 2, max_rank: 64 };
        assert_eq!(flags.room(), Ok(Some(room)));
        assert_eq!(LoraFlags::default().with_spec(None), LoraFlags::default());
    }
}
