//! Requests to one base URL.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// A client for one base URL. Clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    base: String,
    headers: HeaderMap,
    api_key: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpClient {
    /// A client for `base`, such as `http://localhost:8000`.
    pub(crate) fn new(base: &str, api_key: Option<String>) -> Self {
        let mut connector = HttpConnector::new();
        // A request is one write and then waits: nothing is gained by holding it back.
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let base = base.trim_end_matches('/').to_owned();
        Self { base, headers: HeaderMap::new(), api_key, client }
    }

    /// The same client, with a header more on every request; an error says what no header is.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Result<Self, String> {
        let key: HeaderName =
            name.parse().map_err(|_| format!("`{name}` is no name of an HTTP header"))?;
        let value: HeaderValue =
            value.parse().map_err(|_| format!("`{value}` is no value of an HTTP header"))?;
        self.headers.insert(key, value);
        Ok(self)
    }

    /// Where it sends to.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request; a body makes it a POST of JSON.
    pub(crate) async fn send(
        &self,
        path: &str,
        body: Option<String>,
    ) -> Result<Response<Incoming>, String> {
        let uri = format!("{}{path}", self.base);
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(&uri);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let mut request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| format!("`{uri}` is no URL of a server: {error}"))?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        self.client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{uri}: {}", cause.unwrap_or_else(|| error.to_string()))
        })
    }

    /// The whole body of a GET, with its status.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Bytes), String> {
        let response = self.send(path, None).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }

    /// The models that the server lists: their names, and the most tokens that each takes if the
    /// server says so.
    pub(crate) async fn models(&self) -> Result<Vec<(String, Option<u64>)>, String> {
        let (status, body) = self.get("/v1/models").await?;
        if status != 200 {
            return Err(format!("/v1/models answers with status {status}"));
        }
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        let models = list.get("data").and_then(Value::as_array);
        let models = models.ok_or("/v1/models answers without a list of models")?.iter();
        Ok(models
            .filter_map(|model| {
                let length = model.get("max_model_len").and_then(Value::as_u64);
                Some((model.get("id")?.as_str()?.to_owned(), length))
            })
            .collect())
    }

    /// Whether the server says within a while that it can answer.
    pub(crate) async fn until_healthy(&self, patience: Duration) -> bool {
        let ask = async {
            while !matches!(self.get("/health").await, Ok((200, _))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(patience, ask).await.is_ok()
    }
}
