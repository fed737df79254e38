//! The Hugging Face hub: what a repository holds at a revision, and its files.
//!
//! `GET /api/models/ORG/NAME/revision/REVISION?blobs=true` answers the commit and every file with
//! its size and id; `GET /ORG/NAME/resolve/COMMIT/FILE` redirects to the bytes. Large files are
//! named by their SHA-256, small ones by their id in git.

use std::ops::Range;

use async_trait::async_trait;
use reqwest::{Client, header};
use serde::Deserialize;

use super::{
    access::Network,
    checksum::Checksum,
    client::{answered, body, broken, client},
    failure::Failure,
    origin::{Body, Listing, Origin, RemoteFile},
    select::is_inside,
};

/// A repository at a revision.
pub(crate) struct Hub {
    client: Client,
    endpoint: String,
    token: Option<String>,
    name: String,
    revision: String,
    /// What the revision was when it was listed.
    commit: std::sync::OnceLock<String>,
}

/// The part of the hub's answer that matters here.
#[derive(Debug, Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Debug, Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Hub {
    pub(crate) fn new(network: &Network, name: &str, revision: &str) -> Result<Self, Failure> {
        Ok(Self {
            client: client(network)?,
            endpoint: network.hub.clone(),
            token: network.hub_token.clone(),
            name: name.to_owned(),
            revision: revision.to_owned(),
            commit: std::sync::OnceLock::new(),
        })
    }

    fn get(&self, url: &str) -> reqwest::RequestBuilder {
        let request = self.client.get(url);
        // A redirect to another host loses the token: the client sees to that.
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// An error of the hub, with what to do about it.
    fn explain(&self, error: Failure) -> Failure {
        let Failure::Status { status, .. } = &error else { return error };
        let (name, revision, endpoint) = (&self.name, &self.revision, &self.endpoint);
        let why = match (status, &self.token) {
            (401, None) => format!(
                "{name} does not exist on {endpoint}, or it is private or gated: set HF_TOKEN to a \
                 token that may read it"
            ),
            (401, Some(_)) => {
                format!("{endpoint} does not accept the token of HF_TOKEN (or `hf auth login`)")
            }
            (403, _) => format!(
                "the token may not read {name}: if it is gated, ask for access at \
                 {endpoint}/{name}"
            ),
            (404, None) => format!(
                "{endpoint} has no {name} at revision {revision}; if it is private, set HF_TOKEN"
            ),
            (404, Some(_)) => format!("{endpoint} has no {name} at revision {revision}"),
            _ => return error,
        };
        Failure::Setting(format!("{why} ({error})"))
    }
}

#[async_trait]
impl Origin for Hub {
    async fn list(&self) -> Result<Listing, Failure> {
        let (name, revision) = (&self.name, self.revision.replace('/', "%2F"));
        let url = format!("{}/api/models/{name}/revision/{revision}", self.endpoint);
        let response = self.get(&format!("{url}?blobs=true")).send().await;
        let response = answered(&url, response).map_err(|error| self.explain(error))?;
        let wrong = |reason: String| Failure::Answer { url: url.clone(), reason };
        let mut bytes = Vec::new();
        let mut response = response;
        while let Some(part) = response.chunk().await.map_err(|error| broken(&url, error))? {
            bytes.extend_from_slice(&part);
            if bytes.len() > MAX_LISTING {
                return Err(wrong(format!("it has more than {MAX_LISTING} bytes")));
            }
        }
        let read = serde_json::from_slice::<Repository>(&bytes);
        let repository = read.map_err(|error| wrong(error.to_string()))?;
        if !is_id(&repository.sha) {
            return Err(wrong("`sha` is no commit".to_owned()));
        }
        let _ = self.commit.set(repository.sha.clone());
        let file = |sibling: Sibling| {
            let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
            let (size, tag) = match lfs {
                Some(large) => (Some(large.size), Some(large.sha256)),
                None => (size, blob_id),
            };
            let tag = tag.filter(|tag| is_id(tag));
            let (Some(size), Some(tag), true) = (size, tag, is_inside(&path)) else {
                return Err(wrong(format!("`siblings` has {path:?} without a size and an id")));
            };
            Ok(RemoteFile { path, size, checksum: Checksum::of_blob(&tag), tag })
        };
        let files: Result<_, _> = repository.siblings.into_iter().map(file).collect();
        Ok(Listing { version: repository.sha, files: files? })
    }

    async fn read(&self, file: &RemoteFile, range: Range<u64>) -> Result<Body, Failure> {
        let commit = self.commit.get().unwrap_or(&self.revision);
        let path: Vec<_> = file.path.split('/').map(encode).collect();
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.name, path.join("/"));
        let mut request = self.get(&url);
        if range != (0..file.size) {
            let bytes = format!("bytes={}-{}", range.start, range.end - 1);
            request = request.header(header::RANGE, bytes);
        }
        let response = answered(&url, request.send().await).map_err(|error| self.explain(error))?;
        body(&url, response, range.start)
    }
}

/// A part of a path in a URL.
pub(super) fn encode(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    part.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// A commit or a blob, as the name of a file.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Repositories with ten thousand files have some megabytes.
const MAX_LISTING: usize = 32 << 20;
