//! A small HTTP client for our own endpoints: `chat` talks through it, `serve` asks whether the
//! gateway is healthy.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// A client for one base URL.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    base: String,
    api_key: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpClient {
    /// A client for `base`, such as `http://localhost:8000`.
    pub(crate) fn new(base: &str, api_key: Option<String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.trim_end_matches('/').to_owned(), api_key, client }
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
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| format!("`{uri}` is no URL of a server: {error}"))?;
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
