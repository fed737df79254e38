//! Logs, traces and metrics: what a process says about itself.
//!
//! # Layout
//! - [`names`]: every metric and span by name; a new one begins there
//! - [`metrics`]: numbers, as Prometheus reads them
//! - [`otel`]: spans that cross processes, as OpenTelemetry collects them
//!
//! [`init`] is called once, by `main`: log lines go to the terminal's error side, spans to a
//! collector if one is configured. Libraries only ever use `tracing`'s macros.

mod error;
pub mod metrics;
pub mod names;
pub mod otel;

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt};

pub use self::{
    error::TelemetryError,
    metrics::Metrics,
    otel::{Guard, current_traceparent, set_parent},
};

/// What to say, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// What is logged, as `info` or `troupe_actors=debug,info`.
    pub log_filter: String,
    /// How a line looks.
    pub log_format: LogFormat,
    /// Where spans go, as `http://collector:4318`; nowhere if not given.
    pub otlp_endpoint: Option<String>,
    /// What this process is called in traces.
    pub service_name: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_filter: "info".into(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            service_name: "troupe".into(),
        }
    }
}

/// Sets up logs and traces for the whole process. The guard sends what is left when it is dropped.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let (subscriber, guard) = subscriber(config)?;
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Twice)?;
    Ok(guard)
}

/// The same without making it the process's: for tests, which share one.
///
/// # Errors
/// [`TelemetryError`].
pub fn subscriber(
    config: &TelemetryConfig,
) -> Result<(impl Subscriber + Send + Sync + use<>, Guard), TelemetryError> {
    let filter = |text: &str| {
        // The actor library's own spans repeat in every line what our fields say better.
        EnvFilter::try_new(format!("ractor=warn,{text}"))
            .map_err(|source| TelemetryError::Filter { filter: text.into(), source })
    };
    let (spans, guard) = otel::layer(config)?;
    let mut lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if !std::io::stderr().is_terminal() {
        // Colors are for eyes; in a file they get in the way of grep.
        lines.set_ansi(false);
    }
    let lines: Box<dyn Layer<_> + Send + Sync> = match config.log_format {
        LogFormat::Text => lines.with_filter(filter(&config.log_filter)?).boxed(),
        LogFormat::Json => lines.json().with_filter(filter(&config.log_filter)?).boxed(),
    };
    Ok((Registry::default().with(spans).with(lines), guard))
}
