//! Connections to one foreign endpoint, kept for the next request.
//!
//! A connection has no task of its own: who uses it drives it. So a request is one task's work,
//! from the client's socket to the endpoint's and back, and nothing of it is handed from task to
//! task. One that is not used is driven by nobody; whether its other end has closed it is found
//! out when it is taken, and now and then by the endpoint's keeper.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::http::{HeaderValue, Request, Response, Uri, header::HOST};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{
        TrySendError,
        http1::{Connection, SendRequest, handshake},
    },
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{net::TcpStream, task::coop::unconstrained, time::Instant};
use tower::{Service, ServiceExt};
use troupe_runtime::error::chain;

use super::{config::ForeignEndpoint, tls::Tls};
use crate::joined::Joined;

/// All connections to one endpoint that are free.
pub(super) struct Lines {
    connector: HttpsConnector<HttpConnector>,
    /// Where they lead.
    there: Uri,
    host: HeaderValue,
    // A std mutex: held to take one or to put one back, never across an await.
    free: Mutex<Vec<Line>>,
}

/// What is sent: all of it is there.
pub(super) type Asked = Request<Full<Bytes>>;

/// One connection.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// None once it is closed.
    driver: Option<Box<Driver>>,
    free_since: Instant,
}

type Driver = Connection<Joined<MaybeHttpsStream<TokioIo<TcpStream>>>, Full<Bytes>>;

/// An answer's body, which drives its connection. Once it is over the next request may have that;
/// if it is dropped before, the connection is closed, which tells the endpoint.
pub(crate) struct Told {
    body: Incoming,
    line: Option<Line>,
    lines: Arc<Lines>,
    is_over: bool,
    /// What broke it off, once all that came before has been sent on.
    broken: Option<hyper::Error>,
}

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Most that are kept: beyond that many requests at once there is a new one for each.
const MOST_FREE: usize = 256;
/// How long one is kept that nobody uses.
const KEPT: Duration = Duration::from_secs(90);

// === impl Lines ===

impl Lines {
    /// None yet.
    pub(super) fn new(config: &ForeignEndpoint) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(Tls::config(config.tls.as_ref()))
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let (there, host, free) = (config.root(), config.host(), Mutex::default());
        Self { connector, there, host, free }
    }

    /// Sends a request, whose path is the endpoint's own, and waits for the head of the answer.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    pub(super) async fn ask(self: &Arc<Self>, mut asked: Asked) -> Result<Response<Told>, String> {
        asked.headers_mut().insert(HOST, self.host.clone());
        loop {
            let kept = self.take();
            let is_kept = kept.is_some();
            let mut line = match kept {
                Some(line) => line,
                None => self.connect().await?,
            };
            let mut failed = match line.ask(asked).await {
                Ok(response) => {
                    let (line, lines) = (Some(line), Arc::clone(self));
                    let told = |body| Told { body, line, lines, is_over: false, broken: None };
                    return Ok(response.map(told));
                }
                Err(failed) => failed,
            };
            // Its other end closed it just now, before any of the request was sent.
            let Some(unsent) = failed.take_message().filter(|_| is_kept) else {
                return Err(chain(&failed.into_error()));
            };
            asked = unsent;
        }
    }

    /// Lets those go that nobody needs or that are closed.
    pub(super) fn sweep(&self) {
        self.free().retain_mut(Line::is_good);
    }

    async fn connect(&self) -> Result<Line, String> {
        let mut connector = self.connector.clone();
        let connector = connector.ready().await.map_err(|error| error.to_string())?;
        let io = connector.call(self.there.clone()).await;
        let io = io.map_err(|error| chain(&*error))?;
        let (sender, driver) = handshake(Joined(io)).await.map_err(|error| chain(&error))?;
        Ok(Line { sender, driver: Some(Box::new(driver)), free_since: Instant::now() })
    }

    /// One that is free: the one that was used last.
    fn take(&self) -> Option<Line> {
        loop {
            let mut line = self.free().pop()?;
            if line.is_good() {
                return Some(line);
            }
        }
    }

    fn put(&self, mut line: Line) {
        // What the endpoint has sent is read: this only lets the connection see that.
        if !line.sender.is_ready() {
            line.drive(&mut quiet());
        }
        let mut free = self.free();
        if line.sender.is_ready() && free.len() < MOST_FREE {
            line.free_since = Instant::now();
            free.push(line);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Line>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({} free to {})", self.free().len(), self.there)
    }
}

/// For who looks and does not wait.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

// === impl Line ===

impl Line {
    async fn ask(&mut self, asked: Asked) -> Result<Response<Incoming>, TrySendError<Asked>> {
        let mut told = pin!(unconstrained(self.sender.try_send_request(asked)));
        // Nobody but the driver brings an answer, so to look after each of its steps is enough.
        std::future::poll_fn(|context| {
            self.drive(context);
            told.as_mut().poll(&mut quiet())
        })
        .await
    }

    /// Reads and writes what can be.
    fn drive(&mut self, context: &mut Context<'_>) {
        let driver = self.driver.as_mut();
        // What went wrong is told with the answer.
        if driver.is_some_and(|driver| Pin::new(driver).poll(context).is_ready()) {
            self.driver = None;
        }
    }

    /// Whether one that is free can be used.
    fn is_good(&mut self) -> bool {
        self.drive(&mut quiet());
        self.driver.is_some() && self.sender.is_ready() && self.free_since.elapsed() < KEPT
    }
}

// === impl Told ===

impl Body for Told {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        if let Some(line) = &mut self.line {
            line.drive(context);
        }
        let polled = Pin::new(&mut self.body).poll_frame(&mut quiet());
        self.is_over |= matches!(polled, Poll::Ready(None));
        if let Poll::Ready(Some(Err(error))) = polled {
            // hyper's server drops what it has not written yet when a body fails, and writes it
            // when there is nothing more for now.
            self.broken = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if (self.is_over || self.body.is_end_stream())
            && let Some(line) = self.line.take()
        {
            self.lines.put(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use http_body_util::BodyExt;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    /// Longer than anything takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Lines to a server of the test's own.
    async fn lines() -> (Arc<Lines>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let file = json!({"endpoints": [{"name": "a", "url": url}]});
        let read = ForeignEndpoint::read(file).expect("a good file");
        (Arc::new(Lines::new(&read[0])), listener)
    }

    fn asked() -> Asked {
        let mut asked = Request::new(Full::from("body"));
        (*asked.method_mut(), *asked.uri_mut()) = (Method::POST, Uri::from_static("/path"));
        asked
    }

    /// The head and the body of what comes next on a connection.
    async fn heard(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nbody") {
            text.push(stream.read_u8().await.expect("all of a request"));
        }
        String::from_utf8(text).expect("text")
    }

    async fn says(stream: &mut TcpStream, text: &str) {
        stream.write_all(text.as_bytes()).await.expect("it is read");
    }

    async fn text(response: Response<Told>) -> String {
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    const FIRST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
    const SECOND: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                          2\r\ntw\r\n1\r\no\r\n0\r\n\r\n";

    #[tokio::test]
    async fn one_request_after_the_other_goes_over_one_connection() {
        let (lines, listener) = lines().await;
        let there = async {
            let (mut stream, _) = listener.accept().await.expect("somebody");
            let head = heard(&mut stream).await.to_ascii_lowercase();
            says(&mut stream, FIRST).await;
            heard(&mut stream).await;
            says(&mut stream, SECOND).await;
            (head, stream)
        };
        let here = async {
            assert_eq!(text(lines.ask(asked()).await.expect("an answer")).await, "one");
            assert_eq!(text(lines.ask(asked()).await.expect("an answer")).await, "two");
        };
        let both = async { tokio::join!(there, here) };
        let ((head, _stream), ()) = timeout(PATIENCE, both).await.expect("they talk");
        let host = lines.host.to_str().expect("text").to_owned();
        assert!(head.starts_with("post /path http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
        lines.sweep();
        assert_eq!(lines.free().len(), 1);
    }

    #[tokio::test]
    async fn one_that_was_closed_meanwhile_is_not_used() {
        let (lines, listener) = lines().await;
        let there = async {
            for answer in [FIRST, SECOND] {
                let (mut stream, _) = listener.accept().await.expect("somebody");
                heard(&mut stream).await;
                says(&mut stream, answer).await;
            }
        };
        let here = async {
            assert_eq!(text(lines.ask(asked()).await.expect("an answer")).await, "one");
            // The end comes some time after the answer.
            while !lines.free().is_empty() {
                tokio::task::yield_now().await;
                lines.sweep();
            }
            assert_eq!(text(lines.ask(asked()).await.expect("an answer")).await, "two");
        };
        let both = async { tokio::join!(there, here) };
        timeout(PATIENCE, both).await.expect("they talk");
    }

    #[tokio::test]
    async fn who_drops_an_answer_says_so_by_closing() {
        let (lines, listener) = lines().await;
        let there = async {
            let (mut stream, _) = listener.accept().await.expect("somebody");
            heard(&mut stream).await;
            says(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart").await;
            stream.read(&mut [0; 16]).await.map_or(0, |read| read)
        };
        let here = async {
            let mut told = lines.ask(asked()).await.expect("an answer").into_body();
            let part = told.frame().await.expect("a frame").expect("of data");
            assert_eq!(part.into_data().expect("of data"), "part");
        };
        let both = async { tokio::join!(there, here) };
        let (read, ()) = timeout(PATIENCE, both).await.expect("they talk");
        assert_eq!((read, lines.free().len()), (0, 0));
    }
}
