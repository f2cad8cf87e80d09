//! The HTTP server of the figures: `GET /metrics`, one request a connection, and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::encode;
use super::figures::Figures;
use super::process::Process;
use crate::accept::Accepting;
use crate::error::{Error, Result};
use crate::node::Node;

const PATH: &str = "/metrics";

/// The most connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// How long one may take, from its beginning to its end.
const LIMIT: Duration = Duration::from_secs(10);

/// The most bytes of a request.
const MAX_REQUEST: usize = 16 << 10;

/// Serves the node's figures where the configuration says, until the process ends; nowhere if it does not say.
pub async fn serve(node: &Arc<Node>) -> Result<()> {
    let configured = &node.config.metrics.address;
    if configured.is_empty() {
        return Ok(());
    }
    let failed = |e: std::io::Error| {
        Error::Unavailable(format!("cannot listen on metrics.address {configured:?}: {e}"))
    };
    let listener = TcpListener::bind(configured).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address is told the node's figures, unencrypted");
    }
    tracing::info!(%address, "serving metrics");
    let mut registry = Registry::default();
    node.metrics.register(&mut registry);
    registry.register_collector(Box::new(Figures(node.clone())));
    registry.register_collector(Box::new(Process));
    tokio::spawn(accept(listener, Arc::new(registry), LIMIT));
    Ok(())
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, limit: Duration) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut accepting = Accepting::new("metrics");
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _) = accepting.next(|| listener.accept()).await;
        let registry = registry.clone();
        tokio::spawn(async move {
            // Who takes longer has gone, or wants to hold a place.
            let _ = tokio::time::timeout(limit, converse(stream, registry)).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(move |request| {
        let response = respond(&request, &registry);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        tracing::debug!("metrics: {e}");
    }
}

/// The request's body, if it has one, is not read.
fn respond<B>(request: &Request<B>, registry: &Registry) -> Response<Full<Bytes>> {
    let refused = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        return refused(StatusCode::NOT_FOUND, "the figures are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let mut response = Response::new(Full::from(encode(registry)));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::Metrics;
    use super::*;

    /// What a server says to these bytes, until it closes the connection.
    async fn answer(address: std::net::SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may close before it has read all.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn served(limit: Duration) -> std::net::SocketAddr {
        let metrics = Metrics::default();
        metrics.vm_ended("reset");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, Arc::new(registry), limit));
        address
    }

    #[tokio::test]
    async fn one_request_for_metrics_and_nothing_else() {
        let address = served(LIMIT).await;
        // Two requests, of which the second is not answered: the answer ends with the connection.
        let told = answer(
            address,
            b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
        )
        .await;
        assert!(
            told.starts_with("HTTP/1.1 200 OK\r\n") && told.contains("text/plain; version=0.0.4"),
            "{told}"
        );
        assert!(told.contains("connection: close") && told.matches("HTTP/1.1").count() == 1, "{told}");
        assert!(told.ends_with("husk_vm_ends_total{reason=\"reset\"} 1\n"), "{told}");
        for (line, status) in [
            ("GET / HTTP/1.1", "404 Not Found"),
            ("GET /metrics/x HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("nonsense", "400 Bad Request"),
        ] {
            let told = answer(address, format!("{line}\r\nhost: x\r\n\r\n").as_bytes()).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {told}");
            assert!(!told.contains("husk_vm_ends"), "{line}: {told}");
        }
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let address = served(LIMIT).await;
        let endless = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &vec![b'y'; 4 * MAX_REQUEST]].concat();
        let told = answer(address, &endless).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 431 "), "{told}");
    }

    #[tokio::test]
    async fn who_says_nothing_holds_no_place_for_long() {
        let address = served(Duration::from_millis(200)).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let told = answer(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(told.contains("husk_vm_ends_total"), "{told}");
        drop(silent);
    }
}
