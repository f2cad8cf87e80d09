//! The HTTP server, and the URLs that lead to it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::Instrument;

use super::handshake::negotiate;
use super::idle;
use super::serve::serve;
use super::tickets::{LIFETIME, Refusal, Tickets};
use super::tls;
use super::work::Work;
use crate::accept::Accepting;
use crate::error::{Error, Result};
use crate::node::{Node, lock};
use crate::observe;

/// The most connections that are served at a time.
const MAX_CONNECTIONS: usize = 512;

/// The most that have not sent their request yet; more wait to be accepted.
const MAX_GREETING: usize = 512;

/// How long a client may take to greet and to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes of a request.
const MAX_REQUEST: usize = 16 << 10;

/// The streaming server.
pub struct Streaming {
    node: Arc<Node>,
    tickets: Mutex<Tickets<Work>>,
    places: Arc<Semaphore>,
    base: String,
    tls: Option<TlsAcceptor>,
}

impl Streaming {
    /// Listens where the configuration says, and serves until the process ends.
    pub async fn start(node: Arc<Node>) -> Result<Arc<Streaming>> {
        let config = &node.config.streaming;
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let failed = |e: std::io::Error| {
            Error::Unavailable(format!("cannot listen on streaming.address {:?}: {e}", config.address))
        };
        let listener = TcpListener::bind(&config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() && tls.is_none() {
            tracing::warn!(%address, "exec, attach and port-forward cross the network unencrypted; set \
                streaming.tls_certificate and streaming.tls_key");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{address}");
        tracing::info!(base, "serving exec, attach and port-forward");
        let server = Arc::new(Streaming {
            node,
            tickets: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            base,
            tls,
        });
        tokio::spawn(accept(server.clone(), listener));
        Ok(server)
    }

    /// A URL at which the work is done, once, for a client that comes within [`LIFETIME`].
    pub async fn url(&self, work: Work) -> Result<String> {
        work.check(&self.node).await?;
        let name = work.name();
        let token = lock(&self.tickets).issue(work, Instant::now())?;
        Ok(format!("{}/{name}/{token}", self.base))
    }

    fn redeem(&self, path: &str) -> std::result::Result<Work, Refusal> {
        let (name, token) = path.trim_start_matches('/').split_once('/').ok_or(Refusal::Unknown)?;
        let work = lock(&self.tickets).redeem(token, Instant::now())?;
        if work.name() == name { Ok(work) } else { Err(Refusal::Unknown) }
    }
}

async fn accept(server: Arc<Streaming>, listener: TcpListener) {
    let greeting = Arc::new(Semaphore::new(MAX_GREETING));
    let mut accepting = Accepting::new("streaming");
    loop {
        let Ok(turn) = greeting.clone().acquire_owned().await else { return };
        let (stream, peer) = accepting.next(|| listener.accept()).await;
        let server = server.clone();
        tokio::spawn(async move {
            greet(server, stream, peer).await;
            drop(turn);
        });
    }
}

/// Takes a client's request; what follows an upgrade goes on by itself.
async fn greet(server: Arc<Streaming>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = server.tls.clone() else { return request(server, stream, peer).await };
    match tokio::time::timeout(REQUEST_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => request(server, stream, peer).await,
        Ok(Err(e)) => tracing::debug!(%peer, "streaming: TLS: {e}"),
        Err(_) => tracing::debug!(%peer, "streaming: TLS: the client is too slow"),
    }
}

async fn request<S>(server: Arc<Streaming>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = respond(&server, request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(e) = served {
        tracing::debug!(%peer, "streaming: {e}");
    }
}

fn respond(server: &Arc<Streaming>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST");
    }
    // Before the URL is used up: it stays good for a client that comes again.
    let Ok(place) = server.places.clone().try_acquire_owned() else {
        let text = format!("{MAX_CONNECTIONS} connections are served already; end some, and try again");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &text);
    };
    let work = match server.redeem(request.uri().path()) {
        Ok(work) => work,
        Err(Refusal::Unknown) => return refusal(StatusCode::NOT_FOUND, "there is no such streaming URL"),
        Err(Refusal::Used) => {
            return refusal(
                StatusCode::GONE,
                "this URL was used already, and is good for one use; ask for another",
            );
        }
        Err(Refusal::Expired) => {
            let seconds = LIFETIME.as_secs();
            let text = format!("this URL was not used within {seconds} s and has expired; ask for another");
            return refusal(StatusCode::GONE, &text);
        }
    };
    let (transport, headers) = match negotiate(request.headers(), work.wanted().is_none()) {
        Ok(agreed) => agreed,
        Err(text) => return refusal(StatusCode::BAD_REQUEST, &text),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let node = server.node.clone();
    let limit = Duration::from_secs(node.config.streaming.idle_timeout_secs);
    let (sandbox, container) = work.ids();
    let span = observe::work(work.name(), &node, sandbox, container);
    let served = async move {
        match upgrade.await {
            Ok(stream) => {
                let (stream, idle) = idle::watch(TokioIo::new(stream));
                tokio::select! {
                    () = serve(&node, work, transport, stream) => {}
                    () = idle.lasts(limit) => {
                        tracing::info!("streaming: nothing was sent for {} s: the connection is ended", limit.as_secs());
                    }
                }
            }
            Err(e) => tracing::debug!("streaming: the upgrade: {e}"),
        }
        drop(place);
    };
    tokio::spawn(served.instrument(span));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

fn refusal(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
