//! Spans that cross processes: one trace from the HTTP request to the last stage.
//!
//! A trace travels as W3C's `traceparent`, one line of text in our own messages. Export is by a
//! thread of its own with a bounded queue: a collector that is slow or gone loses spans, never time
//! of a request.

use std::{collections::HashMap, time::Duration};

use opentelemetry::{
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::LevelFilter, registry::LookupSpan};

use super::{TelemetryConfig, TelemetryError};
use crate::{error::chain, transport::tls::web_config};

/// How long one export, and the last one at the end of the process, may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The path under an endpoint that OTLP over HTTP gives to traces.
const TRACES_PATH: &str = "/v1/traces";

/// The header, and the key of the propagator.
const TRACEPARENT: &str = "traceparent";

/// Sends what is left when it is dropped, within a few seconds.
#[derive(Debug)]
#[must_use = "spans that were not sent yet are lost when this is dropped at once"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "send the last spans");
        }
    }
}

/// The span that the caller is in, for handing to another process; `None` without a trace.
pub fn current_traceparent() -> Option<String> {
    traceparent_of(&Span::current())
}

/// The same for a span that is not entered.
pub fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes a span the child of another process's. Text that is no `traceparent` (it may come from a
/// client) is ignored, and so is a span that has begun its own trace.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid()
        && let Err(error) = span.set_parent(context)
    {
        tracing::debug!(%error, "join a trace");
    }
}

/// The layer that records spans, if they go anywhere.
pub(super) fn layer<S>(
    config: &TelemetryConfig,
) -> Result<(Option<impl Layer<S> + use<S>>, Guard), TelemetryError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok((None, Guard { provider: None }));
    };
    let url = match endpoint.trim_end_matches('/') {
        whole if whole.ends_with(TRACES_PATH) => whole.to_owned(),
        base => format!("{base}{TRACES_PATH}"),
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .with_timeout(EXPORT_TIMEOUT)
        .with_http_client(client().map_err(TelemetryError::Client)?)
        .with_headers(HashMap::new())
        .build()
        .map_err(|source| TelemetryError::Endpoint { endpoint: endpoint.clone(), source })?;
    let resource = Resource::builder().with_service_name(config.service_name.clone()).build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("troupe"))
        // Spans of the exporter's own HTTP client are debug, and must not be exported in turn.
        .with_filter(LevelFilter::INFO);
    Ok((Some(layer), Guard { provider: Some(provider) }))
}

/// The exporter's client. It has a reactor of its own, so it is made where there is no other.
fn client() -> Result<reqwest::blocking::Client, String> {
    let make = || {
        let builder = reqwest::blocking::Client::builder();
        let builder = builder.tls_backend_preconfigured(web_config(None)?).timeout(EXPORT_TIMEOUT);
        builder.build().map_err(|error| chain(&error))
    };
    let made = std::thread::Builder::new().name("otlp-client".to_owned()).spawn(make);
    let made = made.map_err(|error| error.to_string())?.join();
    made.unwrap_or_else(|_| Err("making it panicked".to_owned()))
}
