//! Buckets: `s3://BUCKET/PREFIX` and `gs://BUCKET/PREFIX`, with the clouds' own settings.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpClient, HttpConnector},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};

use super::{
    access::Network,
    client::client,
    failure::Failure,
    origin::{Body, Listing, Origin, RemoteFile},
    select::is_inside,
    web::{tag_of, version_of},
};
use crate::error::chain;

/// A folder in a bucket.
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
}

/// Hands out our own client, with its one TLS provider.
#[derive(Debug)]
struct OurClient(reqwest::Client);

impl HttpConnector for OurClient {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl Bucket {
    /// Of `scheme://bucket/prefix`.
    pub(crate) fn new(network: &Network, scheme: &str, rest: &str) -> Result<Self, Failure> {
        let url = format!("{scheme}://{rest}");
        let setting = |reason: String| Failure::Setting(format!("{url}: {reason}"));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(setting("a bucket looks like `s3://bucket/folder`".to_owned()));
        }
        let ours = OurClient(client(network)?);
        // Whoever asks here asks again where that makes sense.
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store: Result<Arc<dyn ObjectStore>, _> = match scheme {
            "s3" => {
                let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
                for (name, value) in &network.clouds {
                    if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                        builder = builder.with_config(key, value);
                    }
                }
                builder
                    .with_http_connector(ours)
                    .with_retry(once)
                    .build()
                    .map(|store| Arc::new(store) as _)
            }
            _ => {
                let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
                for (name, value) in &network.clouds {
                    if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
                        builder = builder.with_config(key, value);
                    }
                }
                builder
                    .with_http_connector(ours)
                    .with_retry(once)
                    .build()
                    .map(|store| Arc::new(store) as _)
            }
        };
        let store = store.map_err(|error| setting(chain(&error)))?;
        let prefix = Path::parse(prefix).map_err(|error| setting(error.to_string()))?;
        Ok(Self { store, prefix, url })
    }

    /// An error of the library, by whether asking again may help.
    fn failed(&self, path: &str, error: object_store::Error) -> Failure {
        let url = format!("{}/{path}", self.url.trim_end_matches('/'));
        let status = |status| Failure::Status { url: url.clone(), status, retry_after: None };
        match &error {
            object_store::Error::NotFound { .. } => status(404),
            object_store::Error::PermissionDenied { .. } => status(403),
            object_store::Error::Unauthenticated { .. } => status(401),
            _ => Failure::Broken { reason: chain(&error), url },
        }
    }
}

#[async_trait]
impl Origin for Bucket {
    async fn list(&self) -> Result<Listing, Failure> {
        let mut files = Vec::new();
        let mut listed = self.store.list(Some(&self.prefix));
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| self.failed("", error))?;
            let below = object.location.prefix_match(&self.prefix);
            let parts: Option<Vec<_>> =
                below.map(|parts| parts.map(|part| part.as_ref().to_owned()).collect());
            let path = parts.unwrap_or_default().join("/");
            if !is_inside(&path) {
                continue;
            }
            if files.len() == MAX_FILES {
                let reason = format!("more than {MAX_FILES} objects are no model's folder");
                return Err(Failure::Answer { url: self.url.clone(), reason });
            }
            let state = object.e_tag.unwrap_or_else(|| object.last_modified.to_rfc3339());
            let tag = tag_of(&[&path, &state, &object.size.to_string()]);
            files.push(RemoteFile { path, size: object.size, tag, checksum: None });
        }
        if files.is_empty() {
            return Err(Failure::Setting(format!("{} has no files", self.url)));
        }
        Ok(Listing { version: version_of(&files), files })
    }

    async fn read(&self, file: &RemoteFile, range: Range<u64>) -> Result<Body, Failure> {
        let path = file.path.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range)));
        let got = self.store.get_opts(&path, options).await;
        let got = got.map_err(|error| self.failed(&file.path, error))?;
        let (url, name) = (self.url.clone(), file.path.clone());
        let broken = move |error: object_store::Error| Failure::Broken {
            url: format!("{url}/{name}"),
            reason: chain(&error),
        };
        Ok(got.into_stream().map_err(broken).boxed())
    }
}

const MAX_FILES: usize = 10_000;
