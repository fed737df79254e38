//! A server that has one model and speaks, as it is told, as the hub, as a web server, or as a
//! bucket: written from their protocols, with faults on demand. It is a real server on a real
//! port; every connection is one request. Mounted by each crate that fetches in its tests.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

/// What goes wrong.
pub(crate) enum Fault {
    /// The connection ends after so many bytes of a file.
    Cut { after: usize, times: usize },
    /// Every answer has this status.
    Status { status: u16, times: usize },
    /// One bit of a file is another one.
    Flip { times: usize },
    /// The hub is asked for what needs a token.
    NeedsToken,
    /// Files are elsewhere.
    RedirectTo(String),
    /// This is what the hub says that there is.
    Listing(String),
}

pub(crate) struct Stand {
    state: Arc<State>,
    address: std::net::SocketAddr,
}

struct State {
    /// The model's name, or its folder.
    name: String,
    files: BTreeMap<&'static str, Arc<Vec<u8>>>,
    faults: Mutex<Vec<Fault>>,
    asked: AtomicU64,
    sent: AtomicU64,
    token: AtomicBool,
    ended: AtomicBool,
    is_hub: bool,
}

struct Request {
    method: String,
    path: String,
    query: String,
    range: Option<(usize, usize)>,
    token: bool,
}

impl Stand {
    pub(crate) fn hub(name: &str, files: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self::start(name, files, true)
    }

    /// A web server's folder, which is a bucket's too: the first part is the bucket.
    pub(crate) fn web(folder: &str, files: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self::start(folder, files, false)
    }

    fn start(name: &str, files: Vec<(&'static str, Vec<u8>)>, is_hub: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let files = files.into_iter().map(|(name, bytes)| (name, Arc::new(bytes))).collect();
        let state = Arc::new(State {
            name: name.to_owned(),
            files,
            faults: Mutex::default(),
            asked: AtomicU64::default(),
            sent: AtomicU64::default(),
            token: AtomicBool::default(),
            ended: AtomicBool::default(),
            is_hub,
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.answer(&stream.expect("a connection")));
            }
        });
        Self { state, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn file(&self, name: &str) -> Arc<Vec<u8>> {
        Arc::clone(&self.state.files[name])
    }

    /// The sum of a file that the hub promises.
    pub(crate) fn sha256(&self, name: &str) -> String {
        hex(digest(&SHA256, &self.file(name)).as_ref())
    }

    /// The newest fault goes first.
    pub(crate) fn fault(&self, fault: Fault) {
        self.state.faults().insert(0, fault);
    }

    pub(crate) fn mend(&self) {
        self.state.faults().clear();
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// Bytes of files so far.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn saw_token(&self) -> bool {
        self.state.token.load(Ordering::Relaxed)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().expect("nobody panicked over it")
    }

    fn answer(&self, stream: &TcpStream) {
        let Some(request) = Request::read(stream) else { return };
        self.asked.fetch_add(1, Ordering::Relaxed);
        if request.token {
            self.token.store(true, Ordering::Relaxed);
        }
        // A client that has gone is no fault of the stand's.
        let _ = match self.refusal(&request) {
            Some(status) => say(stream, &format!("{status} No"), "", &[]),
            None => self.serve(stream, &request),
        };
    }

    fn refusal(&self, request: &Request) -> Option<u16> {
        let mut faults = self.faults();
        for fault in &mut *faults {
            match fault {
                Fault::Status { status, times } if *times > 0 => {
                    *times -= 1;
                    return Some(*status);
                }
                Fault::NeedsToken if !request.token => return Some(401),
                _ => {}
            }
        }
        None
    }

    fn serve(&self, stream: &TcpStream, request: &Request) -> std::io::Result<()> {
        let path = request.path.trim_start_matches('/');
        if self.is_hub {
            if path == format!("api/models/{}/revision/main", self.name) {
                return say(stream, "200 OK", "", self.listing().as_bytes());
            }
            let prefix = format!("{}/resolve/{COMMIT}/", self.name);
            return match path.strip_prefix(&prefix) {
                Some(file) => self.send(stream, request, file),
                None => say(stream, "404 Not Found", "", &[]),
            };
        }
        let (bucket, folder) = self.name.split_once('/').expect("a bucket's folder");
        if path.trim_end_matches('/') == bucket && request.query.contains("list-type=2") {
            let is_ours = request.query.contains(&format!("prefix={folder}%2F"));
            return say(stream, "200 OK", "", self.bucket(folder, is_ours).as_bytes());
        }
        match path.strip_prefix(&format!("{}/", self.name)) {
            Some(file) => self.send(stream, request, file),
            None => say(stream, "404 Not Found", "", &[]),
        }
    }

    fn listing(&self) -> String {
        for fault in &*self.faults() {
            if let Fault::Listing(text) = fault {
                return text.clone();
            }
        }
        let file = |(name, bytes): (&&str, &Arc<Vec<u8>>)| {
            let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
            let id = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref());
            let sum = hex(digest(&SHA256, bytes).as_ref());
            let size = bytes.len();
            let lfs = match name.ends_with(".safetensors") {
                true => format!(r#","lfs":{{"sha256":"{sum}","size":{size},"pointerSize":135}}"#),
                false => String::new(),
            };
            format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"{id}"{lfs}}}"#)
        };
        let files: Vec<_> = self.files.iter().map(file).collect();
        format!(r#"{{"id":"{}","sha":"{COMMIT}","siblings":[{}]}}"#, self.name, files.join(","))
    }

    fn bucket(&self, folder: &str, is_ours: bool) -> String {
        let file = |(name, bytes): (&&str, &Arc<Vec<u8>>)| {
            format!(
                "<Contents><Key>{folder}/{name}</Key><LastModified>2026-01-01T00:00:00.000Z\
                 </LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                bytes.len(),
                bytes.len()
            )
        };
        let files: String = match is_ours {
            true => self.files.iter().map(file).collect(),
            false => String::new(),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>\
             <IsTruncated>false</IsTruncated>{files}</ListBucketResult>"
        )
    }

    fn send(&self, stream: &TcpStream, request: &Request, name: &str) -> std::io::Result<()> {
        let Some(bytes) = self.files.get(name) else {
            return say(stream, "404 Not Found", "", &[]);
        };
        let (mut cut, mut flip) = (None, false);
        for fault in &mut *self.faults() {
            match fault {
                Fault::RedirectTo(url) => {
                    let location = format!("Location: {url}{}\r\n", request.path);
                    return say(stream, "302 Found", &location, &[]);
                }
                Fault::Cut { after, times } if *times > 0 && bytes.len() > *after => {
                    *times -= 1;
                    cut = Some(*after);
                }
                Fault::Flip { times } if *times > 0 && name.ends_with(".safetensors") => {
                    *times -= 1;
                    flip = true;
                }
                _ => {}
            }
        }
        let all = bytes.len();
        let (begin, end) = request.range.unwrap_or((0, all));
        let end = end.min(all);
        let mut part = bytes[begin..end].to_vec();
        if flip {
            part[0] ^= 1;
        }
        let mut head = format!(
            "ETag: \"{all}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
             Accept-Ranges: bytes\r\n"
        );
        let status = match request.range {
            Some(_) => {
                head += &format!("Content-Range: bytes {begin}-{}/{all}\r\n", end - 1);
                "206 Partial Content"
            }
            None => "200 OK",
        };
        let mut stream = stream;
        let length = part.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        if request.method == "HEAD" {
            return Ok(());
        }
        part.truncate(cut.unwrap_or(length));
        stream.write_all(&part)?;
        self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next()?.ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (mut range, mut token) = (None, false);
        for line in lines {
            let line = line.ok()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (begin, end) = value.strip_prefix("bytes=")?.split_once('-')?;
                    range = Some((begin.parse().ok()?, end.parse::<usize>().ok()? + 1));
                }
                "authorization" => token = value == "Bearer t0",
                _ => {}
            }
        }
        let (path, query) = (path.to_owned(), query.to_owned());
        Some(Self { method, path, query, range, token })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn say(mut stream: &TcpStream, status: &str, head: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
