//! The front door: which path goes where, and the loop that takes connections.
//!
//! A new endpoint is one row in [`rows`] and one in `openapi`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{MethodRouter, get, post},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use troupe_runtime::shutdown::Shutdown;

use crate::{
    connection::StallGuard,
    error,
    joined::Joined,
    openapi,
    passage::Passage,
    routes::{adapters, chat, completions, embeddings, models, placement, probes, score, tokenize},
    rules::front,
    state::Gateway,
};

/// What is buffered per connection beside the socket's own buffers; no head of a request is larger.
const BUFFER_BYTES: usize = 256 << 10;

/// Lines that a head may have.
const MAX_HEADERS: usize = 128;

/// Wait after a failed accept (no file handles left, mostly), so that it is not tried in a circle.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Every path with its methods, but for the description's page. What is here and not described in
/// `openapi` fails a test, and so does the reverse.
pub(crate) fn rows() -> Vec<(&'static str, MethodRouter<Arc<Gateway>>)> {
    vec![
        ("/v1/completions", post(completions::create)),
        ("/v1/chat/completions", post(chat::create)),
        ("/v1/embeddings", post(embeddings::create)),
        ("/score", post(score::score)),
        ("/v1/score", post(score::score_v1)),
        ("/rerank", post(score::rerank)),
        ("/v1/rerank", post(score::rerank_v1)),
        ("/v2/rerank", post(score::rerank_v2)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*id}", get(models::one)),
        ("/v1/load_lora_adapter", post(adapters::load)),
        ("/v1/unload_lora_adapter", post(adapters::unload)),
        ("/tokenize", post(tokenize::tokenize)),
        ("/detokenize", post(tokenize::detokenize)),
        ("/health", get(probes::health)),
        ("/ping", get(probes::ping).post(probes::post_ping)),
        ("/version", get(probes::version)),
        ("/load", get(probes::load)),
        ("/metrics", get(probes::metrics)),
        ("/openapi.json", get(openapi::document)),
    ]
}

/// All of them, behind what every request passes.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let rows = rows().into_iter().fold(Router::new(), |all, (path, row)| all.route(path, row));
    let rows = rows
        .merge(openapi::page())
        // For people who look into one deployment, and no part of the API.
        .route("/debug/placement/{request}", get(placement::explain))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed);
    layered(rows, &gateway)
}

/// Handlers behind what every request passes.
pub(crate) fn layered(rows: Router<Arc<Gateway>>, gateway: &Arc<Gateway>) -> Router {
    rows.layer(Passage::new(gateway)).with_state(Arc::clone(gateway))
}

/// Takes connections until told to end, then lets what is in flight finish, up to a bound.
pub(crate) async fn run(listener: TcpListener, gateway: Arc<Gateway>, mut shutdown: Shutdown) {
    let router = router(Arc::clone(&gateway));
    let free = Arc::new(Semaphore::new(gateway.config.max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            accepted = accept(&listener, &free) => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer, slot)) => {
                let stall = gateway.config.stall_timeout;
                let stream = StallGuard::new(stream, stall);
                let front = (router.clone(), Arc::clone(&gateway));
                let serve = connection(stream, front, shutdown.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = serve.await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let in_flight = gateway.admission.in_flight();
    tracing::info!(in_flight, connections = connections.len(), "drain");
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(gateway.config.drain_timeout, drained).await.is_err() {
        tracing::warn!(in_flight = gateway.admission.in_flight(), "drain took too long, cut");
    }
}

/// The next connection, once there is room for it; until then clients wait in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed.
    let slot = Arc::clone(free).acquire_owned().await.ok();
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

/// Serves one. (Behind a request with `Content-Length` and `Transfer-Encoding`, of which somebody
/// in front of us may see another end, hyper reads nothing.)
async fn connection(
    stream: StallGuard<TcpStream>,
    (router, gateway): (Router, Arc<Gateway>),
    mut shutdown: Shutdown,
) -> hyper::Result<()> {
    let head_timeout = gateway.config.head_timeout;
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let applied = front::apply(&gateway.book.rules(), &mut request);
        let router = router.clone();
        async move {
            match applied {
                Ok(()) => router.call(request).await,
                Err(response) => Ok(response),
            }
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(Joined(TokioIo::new(stream)), service);
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return ended,
        () = shutdown.begun() => served.as_mut().graceful_shutdown(),
    }
    served.await
}
