//! A client that keeps what it was told.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::PATIENCE;

pub(crate) struct Client {
    inner: legacy::Client<HttpConnector, Body>,
    address: SocketAddr,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: axum::http::HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { inner: legacy::Client::builder(TokioExecutor::new()).build_http(), address }
    }

    /// The status alone, whatever the body is.
    pub(crate) async fn status(&self, path: &str) -> u16 {
        let uri = format!("http://{}{path}", self.address).parse().expect("a good address");
        let response = tokio::time::timeout(PATIENCE, self.inner.get(uri)).await;
        response.expect("an answer in time").expect("an answer").status().as_u16()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Reply {
        self.send_within(PATIENCE, (method, path), headers, body).await
    }

    /// The same, where waiting is part of the test.
    pub(crate) async fn send_within(
        &self,
        patience: Duration,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: String,
    ) -> Reply {
        let mut request = axum::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a good request");
        let exchange = async {
            let response = self.inner.request(request).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.expect("a whole answer").to_bytes();
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            Reply { status: parts.status.as_u16(), headers: parts.headers, text }
        };
        tokio::time::timeout(patience, exchange).await.expect("an answer in time")
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The answer, which must be a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Status, type, message and param of a failure.
    pub(crate) fn error(&self) -> (u16, String, String, Option<String>) {
        let error = &self.json()["error"];
        let text = |field: &str| error[field].as_str().map(str::to_owned);
        assert_eq!(error["code"], self.status, "{}", self.text);
        let kind = text("type").expect("a type");
        (self.status, kind, text("message").expect("a message"), text("param"))
    }

    /// The data of the events but the last, which must be `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let events = self.text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        let mut data: Vec<&str> =
            events.map(|event| event.strip_prefix("data: ").expect("an event")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.text);
        data.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect()
    }
}
