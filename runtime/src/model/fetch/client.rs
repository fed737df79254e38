//! The HTTP client of everything that is fetched: one TLS provider, the proxies that the
//! environment names, no wait without an end.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use reqwest::{Client, Response, StatusCode, header};

use super::{access::Network, failure::Failure, origin::Body};
use crate::transport::tls::web_config;

/// A client for one model's files.
pub(crate) fn client(network: &Network) -> Result<Client, Failure> {
    let tls = web_config(network.authorities.as_deref());
    let tls = tls.map_err(|why| Failure::Setting(format!("SSL_CERT_FILE: {why}")))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .user_agent(concat!("troupe/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Failure::Setting(crate::error::chain(&error)))
}

/// What came of a request that was sent to `url`, which is told without its query: redirects put
/// signatures there.
pub(crate) fn answered(
    url: &str,
    response: Result<Response, reqwest::Error>,
) -> Result<Response, Failure> {
    let response = response.map_err(|error| broken(url, error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let seconds = response.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    Err(Failure::Status {
        url: url.to_owned(),
        status: status.as_u16(),
        retry_after: seconds.map(Duration::from_secs),
    })
}

/// The bytes of an answer to a request for the range that begins at `start`.
pub(crate) fn body(url: &str, response: Response, start: u64) -> Result<Body, Failure> {
    if start > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        // The whole file from its beginning, over and over, is nothing that a source of large
        // files should be asked for.
        let reason = "it does not serve parts of files (Range)".to_owned();
        return Err(Failure::Answer { url: url.to_owned(), reason });
    }
    let url = url.to_owned();
    Ok(response.bytes_stream().map_err(move |error| broken(&url, error)).boxed())
}

/// A failed connection, by its causes; without the URL, which may have been signed.
pub(crate) fn broken(url: &str, error: reqwest::Error) -> Failure {
    let reason = match error.is_timeout() {
        true => format!("no byte came for {} s", SILENCE.as_secs()),
        false => crate::error::chain(&error.without_url()),
    };
    Failure::Broken { url: url.to_owned(), reason }
}

const CONNECT: Duration = Duration::from_secs(10);
/// Between two bytes.
const SILENCE: Duration = Duration::from_secs(30);
