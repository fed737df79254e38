//! A folder behind `https://` (or `http://`): a web server lists nothing, so the names that models
//! use are asked for, and the index says which weights there are.

use std::{collections::BTreeSet, ops::Range};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, header};
use serde_json::Value;

use super::{
    access::Network,
    client::{answered, body, client},
    failure::Failure,
    hub::encode,
    origin::{Body, Listing, Origin, RemoteFile},
    select::is_inside,
};

/// A folder on a web server.
pub(crate) struct Web {
    client: Client,
    /// Without a slash at its end.
    folder: String,
}

impl Web {
    pub(crate) fn new(network: &Network, url: &str) -> Result<Self, Failure> {
        Ok(Self { client: client(network)?, folder: url.trim_end_matches('/').to_owned() })
    }

    fn url(&self, path: &str) -> String {
        let parts: Vec<_> = path.split('/').map(encode).collect();
        format!("{}/{}", self.folder, parts.join("/"))
    }

    /// A file's size and tag; `None` where there is no such file.
    async fn look(&self, path: &str) -> Result<Option<RemoteFile>, Failure> {
        let url = self.url(path);
        let response = match answered(&url, self.client.head(&url).send().await) {
            Ok(response) => response,
            Err(Failure::Status { status: 403 | 404 | 410, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let size = text(header::CONTENT_LENGTH).and_then(|size| size.parse::<u64>().ok());
        let Some(size) = size else {
            let reason = "it does not say how long the file is (Content-Length)".to_owned();
            return Err(Failure::Answer { url, reason });
        };
        let state = text(header::ETAG).or_else(|| text(header::LAST_MODIFIED)).unwrap_or_default();
        let tag = tag_of(&[path, state, &size.to_string()]);
        Ok(Some(RemoteFile { path: path.to_owned(), size, tag, checksum: None }))
    }

    /// A file that has to be there.
    async fn need(&self, path: String) -> Result<RemoteFile, Failure> {
        let found = self.look(&path).await?;
        let url = self.url(&path);
        found.ok_or(Failure::Status { url, status: 404, retry_after: None })
    }

    /// The names in the index of a model in several files.
    async fn indexed(&self, index: &RemoteFile) -> Result<BTreeSet<String>, Failure> {
        let url = self.url(&index.path);
        let wrong = |reason: &str| Failure::Answer { url: url.clone(), reason: reason.to_owned() };
        if index.size > MAX_INDEX {
            return Err(wrong("it is longer than any honest index"));
        }
        let mut bytes = Vec::new();
        let mut coming = self.read(index, 0..index.size).await?;
        while let Some(part) = coming.try_next().await? {
            bytes.extend_from_slice(&part);
            if bytes.len() as u64 > MAX_INDEX {
                return Err(wrong("it is longer than any honest index"));
            }
        }
        let map =
            serde_json::from_slice::<Value>(&bytes).map_err(|error| wrong(&error.to_string()))?;
        let names = map.get("weight_map").and_then(Value::as_object);
        let names = names.ok_or_else(|| wrong("there is no `weight_map`"))?;
        let names = names.values().filter_map(Value::as_str).map(str::to_owned);
        let names: BTreeSet<_> = names.filter(|name| is_inside(name)).collect();
        match names.len() <= MAX_FILES {
            true => Ok(names),
            false => Err(wrong("it names more files than any honest index")),
        }
    }
}

#[async_trait]
impl Origin for Web {
    async fn list(&self) -> Result<Listing, Failure> {
        let mut files = Vec::new();
        for name in NAMES {
            files.extend(self.look(name).await?);
        }
        let index = files.iter().find(|file| file.path == INDEX).cloned();
        let weights = match index {
            Some(index) => self.indexed(&index).await?,
            None => BTreeSet::from([SINGLE.to_owned()]),
        };
        let needed = stream::iter(weights).map(|name| self.need(name)).buffered(AT_ONCE);
        files.extend(needed.try_collect::<Vec<_>>().await?);
        Ok(Listing { version: version_of(&files), files })
    }

    async fn read(&self, file: &RemoteFile, range: Range<u64>) -> Result<Body, Failure> {
        let url = self.url(&file.path);
        let mut request = self.client.get(&url);
        if range != (0..file.size) {
            let bytes = format!("bytes={}-{}", range.start, range.end - 1);
            request = request.header(header::RANGE, bytes);
        }
        body(&url, answered(&url, request.send().await)?, range.start)
    }
}

/// A name for what some texts say, for want of a better one.
pub(super) fn tag_of(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..40].to_owned()
}

/// A name for the state of all files.
pub(super) fn version_of(files: &[RemoteFile]) -> String {
    let mut parts: Vec<_> = files.iter().flat_map(|file| [&*file.path, &*file.tag]).collect();
    parts.sort_unstable();
    tag_of(&parts)
}

/// What a model may have beside its weights.
const NAMES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    INDEX,
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const AT_ONCE: usize = 8;
const MAX_INDEX: u64 = 64 << 20;
const MAX_FILES: usize = 10_000;
