//! `kvCacheOffloading`: where keys and values go that do not fit the device.

use crate::spec::{quantity::quantity, reader::Fields};

/// Where keys and values go that do not fit the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvOffload {
    /// Bytes of the host's memory.
    pub cpu: u64,
    /// What goes first when it is full.
    pub eviction: Eviction,
    /// Where they go after that, in order.
    pub files: Vec<FileTier>,
}

/// What goes first when a place is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// What was not used for longest.
    #[default]
    Lru,
    /// Adaptive: what was used often stays longer.
    Arc,
}

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileTier {
    /// On the host's own disk, of so many bytes at most.
    Local {
        /// Bytes.
        bytes: u64,
    },
    /// A volume of that name.
    Volume {
        /// Its name.
        name: String,
        /// Where in it.
        path: Option<String>,
    },
}

/// `kvCacheOffloading`; `whole` if nothing is added to it from elsewhere.
pub(super) fn offload(fields: &Fields<'_>, whole: bool) -> Option<KvOffload> {
    let words = [("lru", Eviction::Lru), ("arc", Eviction::Arc)];
    let eviction = fields.one_of("evictionPolicy", &words).unwrap_or_default();
    let files = fields.objects("secondary").iter().filter_map(tier).collect();
    if whole && fields.value("cpu").is_none() {
        fields.problem("cpu", "is required");
    }
    let cpu = amount(fields, "cpu")?;
    Some(KvOffload { cpu, eviction, files })
}

fn tier(fields: &Fields<'_>) -> Option<FileTier> {
    if fields.value("fileSystem").is_none() {
        fields.problem("fileSystem", "is required");
    }
    let files = fields.object("fileSystem")?;
    let (local, volume) = (files.object("emptyDir"), files.object("pvc"));
    match (local, volume) {
        (Some(local), None) => {
            local.without_effect(&["medium"], ": the host's disk is used");
            let key = if local.value("sizeLimit").is_some() { "sizeLimit" } else { "size" };
            if local.value(key).is_none() {
                local.problem("size", "is required");
            }
            Some(FileTier::Local { bytes: amount(&local, key)? })
        }
        (None, Some(volume)) => {
            if let Some(claim) = volume.object("spec") {
                let message = "has no effect outside Kubernetes: name a folder under ref";
                volume.warn("spec", message);
                claim.opaque();
                return None;
            }
            if volume.value("ref").is_none() {
                volume.problem("ref", "is required");
            }
            let named = volume.object("ref")?;
            let path = named.text("path").map(str::to_owned);
            Some(FileTier::Volume { name: named.required_text("name")?.to_owned(), path })
        }
        (local, _) => {
            let right = "must have one of emptyDir and pvc";
            let got = if local.is_some() { "has both" } else { "has neither" };
            fields.problem("fileSystem", format!("{right}, {got}"));
            None
        }
    }
}

fn amount(fields: &Fields<'_>, key: &'static str) -> Option<u64> {
    let text = fields.scalar(key)?;
    let bytes = quantity(&text).filter(|bytes| *bytes > 0);
    if bytes.is_none() && !fields.findings().is_template(&text) {
        fields.problem(key, format!("must be an amount as 8Gi, got {text}"));
    }
    bytes
}
