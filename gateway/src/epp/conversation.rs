//! One request of the proxy's client: what is asked about it, and what is answered.
//!
//! The request's body is handed to its handler as it arrives, so that one that is too large, too
//! slow or not allowed is refused before all of it is here. Whatever the handler decides, the proxy
//! is told when the body is whole. What was counted at the endpoint stays counted until the proxy
//! is through with the answer, or goes away.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body, http::Request, response::Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Status};

use super::{
    front::through,
    messages::{
        BodySendMode, Common, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
        ProtocolConfiguration, Said, Told, Trailers,
    },
    pick::{Pick, To},
    words,
};
use crate::state::Gateway;

/// What every conversation has.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) gateway: Arc<Gateway>,
    pub(super) router: Router,
    /// This gateway's own address, as the proxy reaches it.
    pub(super) here: SocketAddr,
}

/// Where what is said goes.
pub(super) type Outbox = mpsc::Sender<Result<ProcessingResponse, Status>>;

/// Answers that wait for the proxy to take them.
pub(super) const OUTBOX: usize = 16;
/// Parts of a body that wait for its handler.
const PARTS: usize = 16;

/// The conversation is over, with this for the proxy if it went wrong.
type Over = Result<(), Status>;

/// Talks about one request until the proxy has nothing more to say.
pub(super) async fn talk(
    surroundings: Surroundings,
    mut inbox: impl Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
    outbox: Outbox,
) {
    let mut conversation =
        Conversation { surroundings, outbox: outbox.clone(), modes: None, pick: None };
    if let Err(status) = conversation.run(&mut inbox).await {
        // Who does not listen any more need not be told.
        let _ = outbox.send(Err(status)).await;
    }
}

struct Conversation {
    surroundings: Surroundings,
    outbox: Outbox,
    modes: Option<ProtocolConfiguration>,
    /// What was decided; dropped at the end.
    pick: Option<Pick>,
}

// === impl Conversation ===

impl Conversation {
    async fn run(
        &mut self,
        inbox: &mut (impl Stream<Item = Result<ProcessingRequest, Status>> + Unpin),
    ) -> Over {
        while let Some(said) = self.next(inbox).await? {
            match said.request {
                Some(Said::RequestHeaders(headers)) if self.pick.is_none() => {
                    self.modes = said.protocol_config;
                    let parts = words::request(&headers, said.metadata_context.as_ref())
                        .map_err(|why| Status::new(Code::InvalidArgument, why))?;
                    if !self.decide(parts, &headers, inbox).await? {
                        return Ok(());
                    }
                }
                Some(Said::ResponseHeaders(headers)) => self.answered(&headers).await?,
                Some(Said::ResponseBody(body)) => self.pass(body).await?,
                Some(Said::ResponseTrailers(_)) => {
                    self.say(words::trailers(Told::ResponseTrailers(Trailers {}))).await?;
                }
                Some(other) => return Err(out_of_turn(&other)),
                None => {}
            }
        }
        Ok(())
    }

    /// What the proxy says next; an end that it does not say is an end.
    async fn next(
        &self,
        inbox: &mut (impl Stream<Item = Result<ProcessingRequest, Status>> + Unpin),
    ) -> Result<Option<ProcessingRequest>, Status> {
        let longest = self.surroundings.gateway.config.request_timeout;
        match timeout(longest, inbox.next()).await {
            Ok(said) => Ok(said.and_then(Result::ok)),
            Err(_) => Err(Status::deadline_exceeded("the proxy said nothing for too long")),
        }
    }

    async fn say(&self, response: ProcessingResponse) -> Over {
        let said = self.outbox.send(Ok(response)).await;
        said.map_err(|_| Status::cancelled("the proxy does not listen any more"))
    }

    /// Decides about a request; false if that was its end.
    async fn decide(
        &mut self,
        parts: axum::http::request::Parts,
        headers: &HttpHeaders,
        inbox: &mut (impl Stream<Item = Result<ProcessingRequest, Status>> + Unpin),
    ) -> Result<bool, Status> {
        let mode = self.request_mode();
        let with_body = !headers.end_of_stream && mode != BodySendMode::None;
        let buffered = mode == BodySendMode::Buffered;
        if with_body && !buffered && mode != BodySendMode::FullDuplexStreamed {
            let why = "request bodies must be sent BUFFERED or FULL_DUPLEX_STREAMED";
            return Err(Status::failed_precondition(why));
        }
        if with_body && buffered {
            // Before it has this the proxy sends no body.
            self.say(words::go_on(Told::RequestHeaders)).await?;
        }
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(PARTS);
        let body = match with_body {
            true => Body::from_stream(stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|part| (part, receiver))
            })),
            false => Body::empty(),
        };
        let Surroundings { gateway, router, .. } = self.surroundings.clone();
        let request = Request::from_parts(parts, body);
        let handled = through(router, &gateway, request);
        tokio::pin!(handled);
        let mut sender = with_body.then_some(sender);
        let (mut part, mut response, mut trailers) = (None, None, false);
        while response.is_none() || sender.is_some() {
            tokio::select! {
                // First, or parts would pile up that only the handler can take.
                biased;
                done = &mut handled, if response.is_none() => {
                    let refused = done.extensions().get::<Pick>().is_none();
                    response = Some(done);
                    if refused {
                        break;
                    }
                }
                ends = hand_over(&sender, &mut part), if part.is_some() => {
                    sender = sender.filter(|_| !ends);
                }
                said = self.next(inbox), if sender.is_some() && part.is_none() => {
                    match said?.and_then(|said| said.request) {
                        Some(Said::RequestBody(body)) => part = Some(body),
                        Some(Said::RequestTrailers(_)) => (sender, trailers) = (None, true),
                        Some(other) => return Err(out_of_turn(&other)),
                        None => return Err(Status::cancelled("the request was not told whole")),
                    }
                }
            }
        }
        let Some(response) = response else { return Ok(false) };
        let Some(pick) = response.extensions().get::<Pick>().cloned() else {
            self.refuse(response).await?;
            return Ok(false);
        };
        self.place(&pick, (with_body, buffered), trailers).await?;
        // The body is the proxy's now.
        self.pick = Some(Pick { body: Bytes::new(), ..pick });
        Ok(true)
    }

    /// The answer is an error, which the proxy gives.
    async fn refuse(&self, response: Response) -> Over {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes);
        self.say(words::immediate(&parts, body.unwrap_or_default())).await
    }

    async fn place(
        &self,
        pick: &Pick,
        (with_body, buffered): (bool, bool),
        trailers: bool,
    ) -> Over {
        let here = self.surroundings.here.to_string();
        let (mut response, metadata) = words::placed(pick, &here, with_body);
        if with_body && buffered {
            response.body_mutation = pick.changed.then(|| words::whole(&pick.body));
        }
        let common = Common { response: Some(response) };
        let told = match with_body && buffered {
            true => Told::RequestBody(common),
            false => Told::RequestHeaders(common),
        };
        let dynamic_metadata = Some(metadata);
        self.say(ProcessingResponse { response: Some(told), dynamic_metadata }).await?;
        if with_body && !buffered {
            for part in words::parts(&pick.body, !trailers) {
                self.say(part).await?;
            }
        }
        if trailers {
            self.say(words::trailers(Told::RequestTrailers(Trailers {}))).await?;
        }
        Ok(())
    }

    async fn answered(&self, headers: &HttpHeaders) -> Over {
        let mut by = None;
        if let Some(Pick { to: To::There(chosen), .. }) = &self.pick {
            by = Some(chosen.address());
            if let Some(status) = words::status(headers) {
                chosen.answered(status);
            }
        }
        self.say(words::served(by.as_deref())).await
    }

    /// A part of an answer is passed on as it is.
    async fn pass(&self, HttpBody { body, end_of_stream }: HttpBody) -> Over {
        let duplex = self.modes.is_none_or(|modes| {
            modes.response_body_mode == BodySendMode::FullDuplexStreamed as i32
        });
        let response = match duplex {
            true => words::streamed(Told::ResponseBody, body, end_of_stream),
            false => words::go_on(Told::ResponseBody),
        };
        self.say(response).await
    }

    /// Proxies that do not say how they send bodies do as the protocol of endpoint pickers demands.
    fn request_mode(&self) -> BodySendMode {
        let told = self.modes.and_then(|modes| modes.request_body_mode.try_into().ok());
        told.unwrap_or(BodySendMode::FullDuplexStreamed)
    }
}

/// Gives a part of the body to the handler once that has room for it, and says whether it was the
/// last. Safe to cancel: the part stays where it is.
async fn hand_over(
    parts: &Option<mpsc::Sender<Result<Bytes, Infallible>>>,
    part: &mut Option<HttpBody>,
) -> bool {
    let room = match parts {
        Some(parts) => parts.reserve().await.ok(),
        None => None,
    };
    let Some(HttpBody { body, end_of_stream }) = part.take() else { return true };
    // A handler that has its decision reads no further.
    if let Some(room) = room {
        room.send(Ok(body));
    }
    end_of_stream
}

fn out_of_turn(said: &Said) -> Status {
    let what = match said {
        Said::RequestHeaders(_) => "request headers",
        Said::ResponseHeaders(_) => "response headers",
        Said::RequestBody(_) => "a request body",
        Said::ResponseBody(_) => "a response body",
        Said::RequestTrailers(_) => "request trailers",
        Said::ResponseTrailers(_) => "response trailers",
    };
    Status::new(Code::InvalidArgument, format!("{what} came out of turn"))
}
