//! Asks foreign endpoints what they serve and how busy they are, again and again.
//!
//! One that does not answer takes no more requests until it does; one whose load cannot be read is
//! taken for what it said last.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::http::Request;
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    scrape,
    upstream::{ForeignModel, Upstream, Upstreams},
};

/// Between two looks at load.
const LOAD: Duration = Duration::from_millis(100);
/// Looks at load for each look at models.
const MODELS: u32 = 50;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// The most that is read of an answer.
const MOST_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
struct List {
    data: Vec<Card>,
}

#[derive(Deserialize)]
struct Card {
    id: String,
    #[serde(default)]
    max_model_len: Option<u32>,
}

/// Never returns; ends with its task.
pub(crate) async fn run(upstreams: Arc<Upstreams>) -> Infallible {
    let mut changes = upstreams.changes();
    let mut tasks = JoinSet::new();
    let mut kept: BTreeMap<u32, AbortHandle> = BTreeMap::new();
    loop {
        let all = Arc::clone(&changes.borrow_and_update());
        kept.retain(|number, task| {
            let is_there = all.iter().any(|upstream| upstream.number == *number);
            if !is_there {
                task.abort();
            }
            is_there
        });
        for upstream in all.iter() {
            kept.entry(upstream.number)
                .or_insert_with(|| tasks.spawn(keep(Arc::clone(&upstreams), Arc::clone(upstream))));
        }
        while tasks.try_join_next().is_some() {}
        // Its sender is in what this holds.
        let _ = changes.changed().await;
    }
}

async fn keep(upstreams: Arc<Upstreams>, upstream: Arc<Upstream>) {
    let mut looks = 0;
    loop {
        if looks == 0 {
            models(&upstream).await;
            upstream.lines.sweep();
        }
        let ready = upstream.known().ready;
        if ready {
            load(&upstreams, &upstream).await;
        }
        // One that is away is asked for its models each time.
        looks = if ready { (looks + 1) % MODELS } else { 0 };
        let wait = if ready { LOAD } else { DEADLINE };
        tokio::time::sleep(wait).await;
    }
}

async fn models(upstream: &Upstream) {
    let told = get(upstream, "/v1/models").await;
    let told = told.and_then(|bytes| {
        serde_json::from_slice::<List>(&bytes).map_err(|error| format!("its models: {error}"))
    });
    let mut known = upstream.known();
    let was = known.ready;
    match told {
        Ok(list) => {
            known.ready = true;
            let model =
                |card: Card| ForeignModel { id: card.id, max_model_len: card.max_model_len };
            known.models = list.data.into_iter().map(model).collect();
            if !was {
                tracing::info!(endpoint = ?upstream.config, "foreign endpoint ready");
            }
        }
        Err(error) => {
            known.ready = false;
            if was {
                tracing::warn!(endpoint = ?upstream.config, error, "foreign endpoint gone");
            }
        }
    }
}

async fn load(upstreams: &Upstreams, upstream: &Upstream) {
    match get(upstream, "/metrics").await {
        Ok(bytes) => {
            if let Some(load) = scrape::load(&String::from_utf8_lossy(&bytes)) {
                let mut known = upstream.known();
                (known.load, known.told_at) = (load, upstreams.now());
            }
        }
        Err(error) => {
            // Whether it is gone, its models say.
            tracing::debug!(endpoint = ?upstream.config, error, "its load is that of before");
        }
    }
}

async fn get(upstream: &Upstream, path: &str) -> Result<Vec<u8>, String> {
    let asked = async {
        let path_there = upstream.config.path(path).ok_or("its address has no such path")?;
        let mut request = Request::get(path_there);
        if let Some(authorization) = &upstream.config.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let response = upstream.lines.ask(request).await?;
        if !response.status().is_success() {
            return Err(format!("{path} answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
    };
    timeout(DEADLINE, asked).await.map_err(|_| format!("{path} takes longer than {DEADLINE:?}"))?
}
