//! `troupe health`: asks a gateway whether it answers, for images that have no other client.

use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::client::http::HttpClient;

/// Ask a gateway whether it answers; the exit code says so.
#[derive(Args, Debug)]
pub(crate) struct Health {
    /// The gateway.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Also ask whether it has a model to answer with.
    #[arg(long)]
    ready: bool,
}

impl Health {
    /// Asks once.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let path = if self.ready { "/health" } else { "/version" };
        let client = HttpClient::new(&self.url, None);
        match tokio::time::timeout(PATIENCE, client.get(path)).await {
            Ok(Ok((200, _))) => Ok(()),
            Ok(Ok((status, _))) => {
                Err(Failure::run(format!("{}{path} answers with status {status}", client.base())))
            }
            Ok(Err(error)) => Err(Failure::run(error)),
            Err(_) => {
                Err(Failure::run(format!("{}{path}: no answer in {PATIENCE:?}", client.base())))
            }
        }
    }
}

/// Who asks gives up no later than this.
const PATIENCE: Duration = Duration::from_secs(3);
