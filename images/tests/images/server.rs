//! A registry that misbehaves by script, where the real one cannot: it serves a layout over HTTP/1.1, one request
//! a connection, and keeps what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::layout::digest;

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What was posted.
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// How an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// After that many bytes the connection is cut.
    Cut(usize),
    /// After that many bytes nothing comes, until the client gives up.
    Stall(usize),
    /// After that many bytes one comes at a time, with that pause before it.
    Drip(usize, Duration),
}

#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    end: End,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), end: End::Whole }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// Sees each request with the honest answer, and gives the one that is sent.
type Script = Box<dyn FnMut(&Request, Reply) -> Reply + Send>;

struct Shared {
    layout: PathBuf,
    script: Mutex<Script>,
    seen: Mutex<Vec<Request>>,
    stopped: AtomicBool,
}

/// The server; it ends with this value.
pub struct Server {
    port: u16,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves the layout in `layout` as every repository, answering as `script` says.
    pub fn start(layout: &Path, script: impl FnMut(&Request, Reply) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            layout: layout.to_owned(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that goes away is no failure.
                std::thread::spawn(move || shared.answer(&stream.ok()?));
            }
        });
        Self { port, shared }
    }

    /// One without a will of its own.
    pub fn honest(layout: &Path) -> Self {
        Self::start(layout, |_, reply| reply)
    }

    /// Host and port, as in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How often something whose path holds `part` was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let request = read_request(stream)?;
        self.seen.lock().unwrap().push(request.clone());
        let honest = self.honest(&request);
        let reply = (self.script.lock().unwrap())(&request, honest);
        send(stream, &reply)
    }

    /// What a registry answers (OCI distribution specification, "Pull").
    fn honest(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        let mut parts = path.rsplit('/');
        let (name, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let digest =
            if kind == "manifests" && !name.contains(':') { self.tagged(name) } else { Some(name.into()) };
        let hex = digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:"));
        let content = hex.and_then(|hex| std::fs::read(self.layout.join("blobs/sha256").join(hex)).ok());
        let Some(content) = content else {
            let error = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return Reply::new(404).body(error);
        };
        let start = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match start {
            Some(start) => Reply::new(206)
                .header("Content-Range", &format!("bytes {start}-{}/{}", content.len() - 1, content.len()))
                .body(&content[start..]),
            None => Reply::new(200).body(content),
        }
    }

    fn tagged(&self, tag: &str) -> Option<String> {
        let index = std::fs::read(self.layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        Some(entries.iter().find(named)?["digest"].as_str().unwrap().to_owned())
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut input = BufReader::new(stream);
    let mut lines = input.by_ref().lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let line = lines.next()?.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length: &String| length.parse().ok()).unwrap_or(0);
    let mut body = String::new();
    input.take(length).read_to_string(&mut body).ok()?;
    Some(Request { path, headers, body })
}

fn send(mut stream: &TcpStream, reply: &Reply) -> Option<()> {
    let length = reply.body.len();
    let mut head =
        format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    match reply.end {
        End::Whole => stream.write_all(&reply.body).ok()?,
        End::Cut(at) => {
            stream.write_all(&reply.body[..at]).ok()?;
            stream.shutdown(Shutdown::Both).ok()?;
        }
        End::Stall(at) => {
            stream.write_all(&reply.body[..at]).ok()?;
            // Ends when the client closes the connection.
            let _ = stream.read(&mut [0]);
        }
        End::Drip(at, pause) => {
            let (whole, rest) = reply.body.split_at(at.min(length));
            stream.write_all(whole).ok()?;
            for byte in rest {
                std::thread::sleep(pause);
                stream.write_all(&[*byte]).ok()?;
            }
        }
    }
    Some(())
}

/// The digest in a path, if it is a blob's.
pub fn blob_in(path: &str) -> Option<&str> {
    path.split('?').next()?.split_once("/blobs/").map(|(_, digest)| digest)
}

/// Bytes as many as `body`, of another digest.
pub fn spoil(mut body: Vec<u8>) -> Vec<u8> {
    let before = digest(&body);
    let middle = body.len() / 2;
    body[middle] ^= 1;
    assert_ne!(digest(&body), before);
    body
}
