//! The endpoint's unix socket.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::stream;
use husk_proto::cri::image_service_server::ImageServiceServer;
use husk_proto::cri::runtime_service_server::RuntimeServiceServer;
use rustix::fs::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};
use tonic::transport::Server;

use super::images::Images;
use super::runtime::Runtime;
use crate::accept::Accepting;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::observe::{CallLayer, metrics};
use crate::streaming::Streaming;

/// The largest request, in bytes; what kubelet and crictl allow for answers.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Serves the CRI until `stop` resolves. Pods go on after that.
pub async fn serve(node: Arc<Node>, stop: impl Future<Output = ()>) -> Result<()> {
    let socket = node.config.socket.clone();
    let streaming = Streaming::start(node.clone()).await?;
    metrics::serve(&node).await?;
    let listener = listen(&socket)?;
    tracing::info!(socket = %socket.display(), "serving the CRI");
    let listened = node.clone();
    let stop = async move {
        stop.await;
        // Who listens to events does so for ever, and the server waits for all calls.
        listened.events.close();
    };
    let runtime =
        RuntimeServiceServer::new(Runtime(node.clone(), streaming)).max_decoding_message_size(MAX_MESSAGE);
    let calls = CallLayer(node.metrics.clone());
    let images = ImageServiceServer::new(Images(node)).max_decoding_message_size(MAX_MESSAGE);
    let first = (listener, Accepting::new("the CRI"));
    let connections = stream::unfold(first, |(listener, mut accepting)| async move {
        let (connection, _) = accepting.next(|| listener.accept()).await;
        Some((Ok::<_, io::Error>(connection), (listener, accepting)))
    });
    Server::builder()
        .layer(calls)
        .add_service(runtime)
        .add_service(images)
        .serve_with_incoming_shutdown(connections, stop)
        .await
        .map_err(|e| Error::Internal(format!("the CRI server: {e}")))?;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

/// Only root may talk to it: who may start pods owns the node.
fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
    }
    // The store's lock says that no other daemon lives; what is left of the last one's socket can go.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", socket, e)),
        _ => {}
    }
    let bound = || -> io::Result<UnixListener> {
        let unbound = UnixSocket::new_stream()?;
        // The file gets the mode that the socket has: at no moment may anybody else connect.
        fchmod(&unbound, Mode::RUSR | Mode::WUSR)?;
        unbound.bind(socket)?;
        unbound.listen(BACKLOG)
    };
    bound().map_err(|e| Error::io("listen on", socket, e))
}
