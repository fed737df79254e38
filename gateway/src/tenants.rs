//! Who asks: tenants, by the API keys that prove it.
//!
//! A tenant is what shares are counted for and what bounds the priority that a request may claim.
//! It follows from the key and from nothing that a client can write into a header. Keys without a
//! tenants file are all of one tenant, `default`; without any key nobody is anybody, and the
//! fairness header is taken at its word.

use std::{collections::BTreeSet, fmt, sync::Arc};

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use troupe_runtime::id::Digest;

/// Where llm-d's clients say whose share a request is to be counted for.
const FAIRNESS: &str = "x-llm-d-inference-fairness-id";
/// The longest name of a tenant.
const MAX_NAME: usize = 64;
/// Before a key that is written as its BLAKE3 digest.
const DIGEST: &str = "blake3:";

/// One who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The tenant's name.
    pub(crate) tenant: Arc<str>,
    /// Its share, relative to others'.
    pub(crate) weight: u32,
    /// The priority of requests that claim none; higher goes first.
    pub(crate) priority: Option<i32>,
    /// The highest priority that a request may claim; any if not said.
    pub(crate) max_priority: Option<i32>,
}

/// One tenant, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    name: String,
    keys: Vec<Key>,
    weight: u32,
    priority: Option<i32>,
    max_priority: Option<i32>,
}

/// A key, kept as a digest: comparing digests in constant time tells nothing of a key's length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key([u8; 32]);

/// All who may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants {
    callers: Vec<Caller>,
    /// Each with whose it is.
    keys: Vec<(Key, usize)>,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    tenants: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    name: String,
    api_keys: Vec<String>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    max_priority: Option<i32>,
}

fn one() -> u32 {
    1
}

// === impl Tenant ===

impl Tenant {
    /// Reads what a tenants file holds.
    ///
    /// # Errors
    /// The field that is wrong, and what would be right.
    pub fn read(file: Value) -> Result<Vec<Self>, String> {
        let file: File = serde_path_to_error::deserialize(file)
            .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
        let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let tenants = file.tenants.into_iter().enumerate().map(|(at, written)| {
            let place = |field: &str| format!("tenants[{at}].{field}");
            let Written { name, api_keys, weight, priority, max_priority } = written;
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let place = place("name");
                return Err(format!("{place}: must have 1 to {MAX_NAME} bytes, got {name:?}"));
            }
            if !names.insert(name.clone()) {
                return Err(format!("{}: {name} is there twice", place("name")));
            }
            if !(1..=1_000_000).contains(&weight) {
                return Err(format!("{}: must be 1 to 1000000, got {weight}", place("weight")));
            }
            if let (Some(own), Some(most)) = (priority, max_priority)
                && own > most
            {
                return Err(format!("{}: {own} is above maxPriority {most}", place("priority")));
            }
            let read = api_keys.iter().map(|key| Key::read(key));
            let read: Result<Vec<Key>, String> = read.collect();
            let read = read.map_err(|why| format!("{}: {why}", place("apiKeys")))?;
            if read.is_empty() {
                return Err(format!("{}: must have at least one key", place("apiKeys")));
            }
            if read.iter().any(|key| !keys.insert(*key)) {
                return Err(format!("{}: a key is there twice", place("apiKeys")));
            }
            Ok(Self { name, keys: read, weight, priority, max_priority })
        });
        tenants.collect()
    }
}

// === impl Key ===

impl Key {
    fn of(key: &[u8]) -> Self {
        Self(Digest::of(key).0)
    }

    /// A key, or `blake3:` and what `b3sum` says of it, so that a file need not hold secrets.
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a key must not be empty".into());
        }
        let Some(digest) = text.strip_prefix(DIGEST) else { return Ok(Self::of(text.as_bytes())) };
        serde_json::from_value::<Digest>(digest.into()).map(|digest| Self(digest.0)).map_err(|_| {
            format!("after {DIGEST} there must be 64 hexadecimal digits, got {}", digest.len())
        })
    }

    fn equals(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

// === impl Tenants ===

impl Tenants {
    /// From keys that are of no tenant in particular, and tenants with theirs.
    pub(crate) fn new(keys: &[String], tenants: &[Tenant]) -> Self {
        let mut all = Self::default();
        let keys: Vec<Key> =
            keys.iter().filter(|key| !key.is_empty()).map(|key| Key::of(key.as_bytes())).collect();
        if !keys.is_empty() {
            all.add(Caller::default(), &keys);
        }
        for tenant in tenants {
            let caller = Caller {
                tenant: tenant.name.as_str().into(),
                weight: tenant.weight,
                priority: tenant.priority,
                max_priority: tenant.max_priority,
            };
            all.add(caller, &tenant.keys);
        }
        all
    }

    fn add(&mut self, caller: Caller, keys: &[Key]) {
        let at = self.callers.len();
        self.callers.push(caller);
        self.keys.extend(keys.iter().map(|key| (*key, at)));
    }

    /// Whether everybody may ask.
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key this is.
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<&Caller> {
        let given = Key::of(key);
        // Every key is looked at, so that the time does not tell which one was near.
        let found = self
            .keys
            .iter()
            .fold(None, |found, (known, at)| if given.equals(known) { Some(*at) } else { found });
        self.callers.get(found?)
    }
}

// === impl Caller ===

impl Caller {
    /// Who asks where everybody may.
    pub(crate) fn anonymous(headers: &HeaderMap) -> Self {
        let name = headers.get(FAIRNESS).and_then(|value| value.to_str().ok());
        let name = name.filter(|name| (1..=MAX_NAME).contains(&name.len()));
        name.map_or_else(Self::default, |name| Self { tenant: name.into(), ..Self::default() })
    }

    /// The priority of a request that claims this one.
    pub(crate) fn priority(&self, claimed: Option<i32>) -> i32 {
        let priority = claimed.or(self.priority).unwrap_or(0);
        self.max_priority.map_or(priority, |most| priority.min(most))
    }
}

impl Default for Caller {
    fn default() -> Self {
        Self { tenant: "default".into(), weight: 1, priority: None, max_priority: None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_proves_a_tenant_and_a_header_does_not() {
        let file = json!({"tenants": [
            {"name": "acme", "apiKeys": ["one", "two"], "weight": 3, "maxPriority": 5},
            {"name": "other", "apiKeys": [format!("blake3:{}", Digest::of(b"three"))],
             "priority": -1},
        ]});
        let read = Tenant::read(file).expect("a good file");
        let tenants = Tenants::new(&["plain".to_owned(), String::new()], &read);
        let name =
            |key: &str| tenants.of_key(key.as_bytes()).map(|caller| caller.tenant.to_string());
        assert_eq!(name("two").as_deref(), Some("acme"));
        assert_eq!(name("three").as_deref(), Some("other"));
        assert_eq!(name("plain").as_deref(), Some("default"));
        for wrong in ["", "on", "four", "one "] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        let acme = tenants.of_key(b"one").expect("a tenant");
        assert_eq!(
            (acme.priority(Some(9)), acme.priority(Some(-2)), acme.priority(None)),
            (5, -2, 0)
        );
        let other = tenants.of_key(b"three").expect("a tenant");
        assert_eq!((other.priority(None), other.priority(Some(7))), (-1, 7));
        assert!(Tenants::new(&[], &[]).is_open() && !tenants.is_open());
    }

    #[test]
    fn without_keys_the_header_is_taken_at_its_word() {
        let mut headers = HeaderMap::new();
        assert_eq!(&*Caller::anonymous(&headers).tenant, "default");
        headers.insert(FAIRNESS, "team-a".parse().expect("a value"));
        assert_eq!(&*Caller::anonymous(&headers).tenant, "team-a");
        headers.insert(FAIRNESS, "x".repeat(65).parse().expect("a value"));
        assert_eq!(&*Caller::anonymous(&headers).tenant, "default");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let cases = [
            (json!({}), "missing field `tenants`"),
            (json!({"tenants": [{"name": "a"}]}), "tenants[0]: missing field `apiKeys`"),
            (json!({"tenants": [{"name": "a", "apiKeys": []}]}), "tenants[0].apiKeys: must have"),
            (json!({"tenants": [{"name": "", "apiKeys": ["k"]}]}), "tenants[0].name: must have 1"),
            (
                json!({"tenants": [{"name": "a", "apiKeys": ["k"], "wieght": 1}]}),
                "unknown field `wieght`",
            ),
            (
                json!({"tenants": [{"name": "a", "apiKeys": ["k"], "weight": 0}]}),
                "tenants[0].weight: must be 1 to 1000000, got 0",
            ),
            (
                json!({"tenants": [{"name": "a", "apiKeys": ["blake3:abc"]}]}),
                "tenants[0].apiKeys: after blake3: there must be 64 hexadecimal digits, got 3",
            ),
            (
                json!({"tenants": [
                    {"name": "a", "apiKeys": ["k"]}, {"name": "b", "apiKeys": ["k"]},
                ]}),
                "tenants[1].apiKeys: a key is there twice",
            ),
            (
                json!({"tenants": [
                    {"name": "a", "apiKeys": ["k"], "priority": 2, "maxPriority": 1},
                ]}),
                "tenants[0].priority: 2 is above maxPriority 1",
            ),
        ];
        for (file, wanted) in cases {
            let error = Tenant::read(file).expect_err("it is wrong");
            assert!(error.contains(wanted), "{error}");
        }
    }
}
