//! What is logged, how, and where traces go: the same for every command.

use troupe_runtime::telemetry::{LogFormat, TelemetryConfig};

/// What is logged, how, and where traces go.
#[derive(Debug, clap::Args)]
pub(super) struct Logging {
    /// What is logged: error, warn, info, debug, trace, or per module (`troupe_actors=debug,info`)
    /// [default: info; warn where a command ends by itself].
    #[arg(long, global = true, value_name = "FILTER", env = "TROUPE_LOG")]
    log: Option<String>,
    /// How a log line looks.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// Where traces are sent, as http://collector:4318.
    #[arg(long, global = true, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_traces_endpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Logging {
    /// As telemetry takes it; `filter` is what is logged if nothing was said.
    pub(super) fn config(&self, filter: &str) -> TelemetryConfig {
        TelemetryConfig {
            log_filter: self.log.as_deref().unwrap_or(filter).to_owned(),
            log_format: match self.log_format {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            },
            otlp_endpoint: self.otlp_traces_endpoint.clone(),
            service_name: "troupe".into(),
        }
    }

    /// As arguments, so that the processes which this one starts log in the same way.
    pub(super) fn args(&self, filter: &str) -> Vec<String> {
        let format = match self.log_format {
            Format::Text => "text",
            Format::Json => "json",
        };
        let filter = self.log.as_deref().unwrap_or(filter);
        let mut args = vec![format!("--log={filter}"), format!("--log-format={format}")];
        args.extend(
            self.otlp_traces_endpoint.iter().map(|to| format!("--otlp-traces-endpoint={to}")),
        );
        args
    }
}
