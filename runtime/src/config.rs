//! Settings in layers: what is built in, a file, the environment, the command line; later wins.
//!
//! The layers are plain maps of names to text, and only the last step makes typed values of them,
//! so an error can say where the wrong value came from. The environment is read through a lookup
//! that the edge passes in: nothing below `main` asks the process for it.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file, by its path.
    File(String),
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

/// Reads variables of the environment, or of a test's.
pub trait Lookup {
    /// A variable's value.
    fn variable(&self, name: &str) -> Option<String>;
}

impl Lookup for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

impl<F: Fn(&str) -> Option<String>> Lookup for F {
    fn variable(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// Settings by name, as `request-timeout`; each knows where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, (Origin, String)>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Its value is of another type.
    #[error("{name} is `{value}` (from {origin}): {why}")]
    Wrong {
        /// Which.
        name: String,
        /// What it is.
        value: String,
        /// Where that was said.
        origin: Origin,
        /// What would be right.
        why: String,
    },
    /// It has no default and nobody gave it.
    #[error("{name} is not set: give --{name}, or {variable} in the environment")]
    Missing {
        /// Which.
        name: String,
        /// The variable that sets it.
        variable: String,
    },
    /// A file names what is no setting.
    #[error("{file} sets {name}, which is not known")]
    Unknown {
        /// What.
        name: String,
        /// Where.
        file: String,
    },
    /// A file is not what a file of settings is.
    #[error("{file} cannot be read as settings: {why}")]
    File {
        /// Where.
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

// === impl Settings ===

impl Settings {
    /// What is built in: also the list of all names that are known. A setting without a default is
    /// named with an empty text.
    pub fn with_defaults<'a>(defaults: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values = defaults.into_iter();
        let values = values.map(|(name, value)| (name.into(), (Origin::Default, value.into())));
        Self { values: values.collect() }
    }

    /// A file of `name: value` lines (YAML or JSON) over what is there.
    ///
    /// # Errors
    /// [`ConfigError::File`] or [`ConfigError::Unknown`].
    pub fn file(mut self, path: &str, text: &str) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::File { file: path.into(), why };
        let values: Option<BTreeMap<String, serde_norway::Value>> =
            serde_norway::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        for (name, value) in values.unwrap_or_default() {
            if !self.values.contains_key(&name) {
                return Err(ConfigError::Unknown { name, file: path.into() });
            }
            let text = match value {
                serde_norway::Value::String(text) => text,
                serde_norway::Value::Number(number) => number.to_string(),
                serde_norway::Value::Bool(flag) => flag.to_string(),
                _ => return Err(unreadable(format!("{name} is not one value"))),
            };
            self.values.insert(name, (Origin::File(path.into()), text));
        }
        Ok(self)
    }

    /// The environment over what is there: `TROUPE_REQUEST_TIMEOUT` sets `request-timeout`.
    pub fn environment(mut self, lookup: &impl Lookup) -> Self {
        for (name, value) in &mut self.values {
            let variable = variable_of(name);
            if let Some(text) = lookup.variable(&variable) {
                *value = (Origin::Environment(variable), text);
            }
        }
        self
    }

    /// A flag of the command line over all else, if it was given.
    pub fn flag(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            let origin = Origin::Flag(name.into());
            self.values.insert(name.into(), (origin, value.to_string()));
        }
        self
    }

    /// What was said anywhere: names, where, and the text.
    pub fn given(&self) -> impl Iterator<Item = (&str, &Origin, &str)> {
        self.values
            .iter()
            .filter(|(_, (origin, _))| *origin != Origin::Default)
            .map(|(name, (origin, value))| (name.as_str(), origin, value.as_str()))
    }

    /// A setting's typed value.
    ///
    /// # Errors
    /// [`ConfigError`] that says where the value came from.
    pub fn get<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, ConfigError> {
        let found = self.optional(name)?;
        let missing = || ConfigError::Missing { name: name.into(), variable: variable_of(name) };
        found.ok_or_else(missing)
    }

    /// The same, `None` if it is not set.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`].
    pub fn optional<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some((origin, value)) = self.values.get(name) else {
            return Ok(None);
        };
        if value.is_empty() {
            return Ok(None);
        }
        value.parse().map(Some).map_err(|error: T::Err| ConfigError::Wrong {
            name: name.into(),
            value: value.clone(),
            origin: origin.clone(),
            why: error.to_string(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "the file {path}"),
            Self::Environment(variable) => write!(f, "the environment's {variable}"),
            Self::Flag(name) => write!(f, "the flag --{name}"),
        }
    }
}

fn variable_of(name: &str) -> String {
    format!("TROUPE_{}", name.replace('-', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: [(&str, &str); 3] =
        [("port", "8000"), ("request-timeout", "3"), ("cluster", "")];

    fn environment() -> BTreeMap<String, String> {
        BTreeMap::from([("TROUPE_REQUEST_TIMEOUT".to_owned(), "soon".to_owned())])
    }

    #[test]
    fn later_layers_win() {
        let settings = Settings::with_defaults(DEFAULTS);
        assert_eq!(settings.get::<u16>("port"), Ok(8000));
        let settings =
            settings.file("troupe.yaml", "port: 8001\nrequest-timeout: 4").expect("fine");
        assert_eq!(settings.get::<u16>("port"), Ok(8001));
        let lookup = |name: &str| (name == "TROUPE_PORT").then(|| "8002".to_owned());
        let settings = settings.environment(&lookup);
        assert_eq!(settings.get::<u16>("port"), Ok(8002));
        let settings = settings.flag("port", Some(8003)).flag("request-timeout", None::<u32>);
        assert_eq!(settings.get::<u16>("port"), Ok(8003));
        assert_eq!(settings.get::<u32>("request-timeout"), Ok(4));
    }

    #[test]
    fn an_error_names_where_the_value_came_from() {
        let settings = Settings::with_defaults(DEFAULTS).environment(&environment());
        let error = settings.get::<u32>("request-timeout").expect_err("`soon` is no number");
        assert_eq!(
            error.to_string(),
            "request-timeout is `soon` (from the environment's TROUPE_REQUEST_TIMEOUT): invalid \
             digit found in string"
        );
        let error = settings.get::<String>("cluster").expect_err("nobody gave it");
        assert_eq!(
            error.to_string(),
            "cluster is not set: give --cluster, or TROUPE_CLUSTER in the environment"
        );
        assert_eq!(settings.optional::<String>("cluster"), Ok(None));
    }

    #[test]
    fn a_file_may_only_set_what_is_known() {
        let settings = || Settings::with_defaults(DEFAULTS);
        let unknown = settings().file("f", "prot: 1").expect_err("a typing error");
        assert_eq!(unknown.to_string(), "f sets prot, which is not known");
        assert!(settings().file("f", "port: [1]").is_err());
        assert!(settings().file("f", "- 1").is_err());
        assert_eq!(settings().file("f", ""), Ok(settings()));
    }
}
