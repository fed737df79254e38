//! Where copies of models are kept on this machine, and what opens the doors of the places that
//! they come from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a process comes to models: its cache, and unless it is kept to that, the way to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelAccess {
    /// The hub's cache: the folder that holds `models--org--name`.
    pub(crate) hub_cache: PathBuf,
    /// Copies from everywhere else.
    pub(crate) other_cache: PathBuf,
    /// `None` where nothing may be downloaded.
    pub(crate) network: Option<Arc<Network>>,
}

/// What is needed beyond this machine.
#[derive(PartialEq, Eq)]
pub(crate) struct Network {
    /// The hub, without a slash at its end.
    pub(crate) hub: String,
    /// Opens private and gated models.
    pub(crate) hub_token: Option<String>,
    /// More certificate authorities than those that Mozilla trusts, in PEM.
    pub(crate) authorities: Option<PathBuf>,
    /// Settings of the clouds' own tools, by the names of their variables.
    pub(crate) clouds: BTreeMap<&'static str, String>,
}

impl ModelAccess {
    /// Kept to a cache in a folder (the one that holds `models--org--name`): nothing is downloaded.
    pub fn offline(folder: impl Into<PathBuf>) -> Self {
        let hub_cache: PathBuf = folder.into();
        Self { other_cache: hub_cache.join("troupe"), hub_cache, network: None }
    }

    /// As the hub's own tools are told: `HF_HUB_CACHE`, else `HF_HOME/hub`, else under the home
    /// folder; `HF_ENDPOINT`; `HF_TOKEN`, else the file that `hf auth login` writes; nothing is
    /// downloaded with `HF_HUB_OFFLINE`. Buckets as the clouds' tools are told, certificate
    /// authorities by `SSL_CERT_FILE`. Variables are asked of `variable`, so that only an edge
    /// reads the environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let home = || path("HOME").unwrap_or_default();
        let hub_home = path("HF_HOME").unwrap_or_else(|| home().join(".cache/huggingface"));
        let cache = path("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
        let off = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let hub_token = text("HF_TOKEN").or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
            token_in(&file)
        });
        let network = Network {
            hub: text("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()).trim_end_matches('/').into(),
            hub_token: hub_token.map(|token| token.trim().to_owned()).filter(|it| !it.is_empty()),
            authorities: path("SSL_CERT_FILE"),
            clouds: CLOUDS.iter().filter_map(|name| Some((*name, text(name)?))).collect(),
        };
        let offline = off("HF_HUB_OFFLINE") || off("TRANSFORMERS_OFFLINE");
        Self {
            hub_cache: path("HF_HUB_CACHE").unwrap_or_else(|| hub_home.join("hub")),
            other_cache: cache.join("troupe/models"),
            network: (!offline).then(|| Arc::new(network)),
        }
    }

    /// The same, told of a hub elsewhere and of a folder for everything: for tests.
    #[cfg(test)]
    pub(crate) fn of(folder: &Path, network: Network) -> Self {
        Self { network: Some(Arc::new(network)), ..Self::offline(folder) }
    }

    /// Whether the hub's cache is in this folder.
    pub fn hub_cache(&self) -> &Path {
        &self.hub_cache
    }
}

// Tokens and keys are nobody's to read.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clouds: Vec<_> = self.clouds.keys().collect();
        f.debug_struct("Network")
            .field("hub", &self.hub)
            .field("hub_token", &self.hub_token.as_ref().map(|_| "..."))
            .field("authorities", &self.authorities)
            .field("clouds", &clouds)
            .finish()
    }
}

/// As Python tools read a switch.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn token_in(file: &Path) -> Option<String> {
    const MAX_BYTES: u64 = 4096;
    let size = fs::metadata(file).ok()?.len();
    if size > MAX_BYTES {
        return None;
    }
    fs::read_to_string(file).ok()
}

const HUB: &str = "https://huggingface.co";
/// What the clouds' own tools read.
const CLOUDS: [&str; 16] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_SKIP_SIGNATURE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_APPLICATION_CREDENTIALS",
];
