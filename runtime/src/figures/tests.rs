//! What comes of a guest's answers, asked for as the daemon does.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::Path;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::StreamBody;
use husk_proto::agent::{DeviceUsage, StatsResponse};
use hyper::body::Frame;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::NamedService;
use tower::Service;

use super::{ContainerFigures, LIMIT, ask, hostile};
use crate::error::Result;
use crate::guest;
use crate::store::ContainerRecord;

/// An agent that answers everything with the same message.
#[derive(Clone)]
struct Liar(Bytes);

impl NamedService for Liar {
    const NAME: &'static str = "husk.agent.v1.Agent";
}

impl Service<Request<Body>> for Liar {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut message = BytesMut::new();
        // Not compressed.
        message.put_u8(0);
        message.put_u32(self.0.len() as u32);
        message.extend_from_slice(&self.0);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Ok::<_, Infallible>(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        ready(Ok(response))
    }
}

/// Serves the answer to one guest's client, behind a VMM's socket.
async fn serve(socket: &Path, answer: Vec<u8>) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.read_u8().await.unwrap() != b'\n' {}
        stream.write_all(b"OK 1\n").await.unwrap();
        let incoming = stream::iter([Ok::<_, std::io::Error>(stream)]);
        let server = tonic::transport::Server::builder().add_service(Liar(answer.into()));
        let _ = server.serve_with_incoming(incoming).await;
    });
}

async fn asked(answer: Vec<u8>) -> Result<ContainerFigures> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vsock");
    serve(&socket, answer).await;
    let guest = guest::connect(&socket).await.unwrap();
    ask(guest, ContainerRecord::default(), Instant::now() + LIMIT).await
}

#[tokio::test]
async fn no_more_is_kept_than_a_guest_has() {
    let device = DeviceUsage { name: "vda\n".into(), ..Default::default() };
    let told = StatsResponse { devices: vec![device; 500], pids: u64::MAX, ..Default::default() };
    let figures = asked(told.encode_to_vec()).await.unwrap();
    assert_eq!((figures.told.devices.len(), figures.told.pids), (64, u64::MAX));
    assert_eq!(figures.told.devices[0].name, "");
}

#[tokio::test]
async fn what_is_large_or_makes_no_sense_is_not_read() {
    let mut empty = StatsResponse { devices: vec![DeviceUsage::default(); 100_000], ..Default::default() };
    let many = empty.encode_to_vec();
    assert!(many.len() < husk_proto::AGENT_MAX_MESSAGE, "smaller than other answers may be");
    empty.devices.truncate(1);
    // The name of a device, field 3, that is no UTF-8.
    let no_text = [0xf2, 0x01, 0x04, 0x1a, 0x02, 0xff, 0xfe].to_vec();
    let no_message = vec![0xff; 100];
    for answer in [many, hostile::answer().encode_to_vec(), no_text, no_message] {
        let length = answer.len();
        assert!(asked(answer).await.is_err(), "{length} bytes");
    }
    assert!(asked(empty.encode_to_vec()).await.is_ok());
}
