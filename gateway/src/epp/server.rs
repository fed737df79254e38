//! gRPC for proxies: the service that they ask, and the one that says whether it is well.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use futures_util::{Stream, future::BoxFuture, stream};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use troupe_runtime::shutdown::Shutdown;

use super::{
    conversation::{OUTBOX, Surroundings, talk},
    door, front,
    guard::{Asked, Peer},
    messages::{HealthCheckRequest, HealthCheckResponse, ProcessingRequest, ProcessingResponse},
};
use crate::state::Gateway;

/// A proxy that is gone without a word is noticed by this.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A request's head is small: what a proxy's client sent is in its messages. (Streams that are
/// opened and reset at once are bounded by hyper, which ends such a connection.)
const MAX_HEAD: u32 = 64 << 10;
/// What a message has beside a body.
const AROUND_A_BODY: usize = 64 << 10;

/// Answers proxies until told to end, then lets what is under way finish, up to a bound. `http` is
/// where this gateway's own HTTP listens.
pub(crate) async fn run(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    http: SocketAddr,
    mut shutdown: Shutdown,
) {
    let drain = gateway.config.drain_timeout;
    let most = u32::try_from(gateway.config.max_requests).unwrap_or(u32::MAX);
    let free = Arc::new(Semaphore::new(gateway.config.max_requests));
    let router = front::router(&gateway);
    let processor = Processor { router, gateway: Arc::clone(&gateway), http, free };
    let mut ended = shutdown.clone();
    let tls = gateway.config.picker_tls.clone();
    let services = Server::builder()
        .max_concurrent_streams(most)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEAD)
        .add_service(processor)
        .add_service(Health { gateway });
    let served = async move {
        let begun = async move { shutdown.begun().await };
        match tls {
            None => services.serve_with_incoming_shutdown(door::plain(listener), begun).await,
            Some(tls) => {
                let incoming = door::secure(listener, tls.clone());
                let serve = services.serve_with_incoming_shutdown(incoming, begun);
                tokio::select! {
                    served = serve => served,
                    () = tls.follow() => Ok(()),
                }
            }
        }
    };
    let late = async {
        ended.begun().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::error!(%error, "the endpoint picker's service ended");
            }
        }
        () = late => tracing::warn!("proxies were not through with their requests in time, cut"),
    }
}

/// `envoy.service.ext_proc.v3.ExternalProcessor`.
#[derive(Clone)]
struct Processor {
    router: Router,
    gateway: Arc<Gateway>,
    http: SocketAddr,
    /// Conversations that may still begin, on all connections together.
    free: Arc<Semaphore>,
}

/// What a conversation holds until its end.
type Held = (Option<Asked>, OwnedSemaphorePermit);

/// `grpc.health.v1.Health`.
#[derive(Clone)]
struct Health {
    gateway: Arc<Gateway>,
}

/// What is said to a proxy, as it comes.
type Saying = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;
type Answered = BoxFuture<'static, Result<axum::http::Response<Body>, Infallible>>;

// === impl Processor ===

impl NamedService for Processor {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl tower::Service<axum::http::Request<Body>> for Processor {
    type Response = axum::http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Answered {
        let (is_known, own) = (method(&request) == "Process", self.clone());
        Box::pin(async move {
            if !is_known {
                return Ok(Status::unimplemented("only Process is there").into_http());
            }
            let most = own.gateway.config.max_body_bytes.saturating_add(AROUND_A_BODY);
            let codec = ProstCodec::<ProcessingResponse, ProcessingRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(most);
            Ok(grpc.streaming(own, request).await)
        })
    }
}

impl StreamingService<ProcessingRequest> for Processor {
    type Response = ProcessingResponse;
    type ResponseStream = Saying;
    type Future = BoxFuture<'static, Result<Response<Saying>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let ip = peer.and_then(|peer| peer.local).map(|own| own.ip());
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            let most = self.gateway.config.max_requests;
            let why = format!("{most} requests are asked about, and no more may be at a time");
            return Box::pin(std::future::ready(Err(Status::resource_exhausted(why))));
        };
        let held = (peer.map(Peer::asks), place);
        let here = SocketAddr::new(ip.unwrap_or(self.http.ip()), self.http.port());
        let surroundings =
            Surroundings { gateway: Arc::clone(&self.gateway), router: self.router.clone(), here };
        Box::pin(async move {
            let (outbox, receiver) = mpsc::channel(OUTBOX);
            let conversation = Box::pin(talk(surroundings, request.into_inner(), outbox));
            Ok(Response::new(Box::pin(saying(conversation, receiver, held)) as Saying))
        })
    }
}

/// What a conversation says. It lives in the stream of its answers: it ends with that.
fn saying(
    conversation: BoxFuture<'static, ()>,
    receiver: mpsc::Receiver<Result<ProcessingResponse, Status>>,
    held: Held,
) -> impl Stream<Item = Result<ProcessingResponse, Status>> {
    let state = (Some(conversation), receiver, held);
    stream::unfold(state, |(mut conversation, mut receiver, held)| async move {
        loop {
            let said = match &mut conversation {
                Some(going) => tokio::select! {
                    biased;
                    said = receiver.recv() => said,
                    () = going => {
                        conversation = None;
                        continue;
                    }
                },
                None => receiver.recv().await,
            };
            return said.map(|said| (said, (conversation, receiver, held)));
        }
    })
}

// === impl Health ===

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower::Service<axum::http::Request<Body>> for Health {
    type Response = axum::http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Answered {
        let (is_known, own) = (method(&request) == "Check", self.clone());
        Box::pin(async move {
            if !is_known {
                return Ok(Status::unimplemented("only Check is there").into_http());
            }
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(Grpc::new(codec).unary(own, request).await)
        })
    }
}

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = std::future::Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        // Who asks for it uses its connection.
        drop(request.extensions().get::<Peer>().map(Peer::asks));
        let status = if self.gateway.is_ready() { 1 } else { 2 };
        std::future::ready(Ok(Response::new(HealthCheckResponse { status })))
    }
}

fn method(request: &axum::http::Request<Body>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}
