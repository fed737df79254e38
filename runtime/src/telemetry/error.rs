//! What can be wrong with how a process is to speak of itself.

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter `{filter}` is wrong, `info` or `troupe_actors=debug,info` are right")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The endpoint cannot be used.
    #[error("cannot export traces to `{endpoint}`, http://HOST:4318 is right")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// There is no client to send traces with.
    #[error("cannot export traces: {0}")]
    Client(String),
    /// Somebody has set up logging in this process already.
    #[error("logging is set up twice in one process")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}
