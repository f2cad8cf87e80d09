//! The agent's service on vsock.

mod connection;
mod output;
mod port_forward;
mod service;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use husk_proto::agent::agent_server::AgentServer;
use husk_proto::{AGENT_MAX_MESSAGE, AGENT_PORT, READY_PORT, ReadyTimes};
use tokio::io::AsyncWriteExt;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};
use tonic::transport::Server;

use self::connection::Connection;
use self::service::Service;
use crate::agent::Agent;
use crate::boot;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::reaper;

/// Serves for ever. `init`: when the agent began.
pub async fn serve(init: Duration) -> Result<()> {
    let agent = Arc::new(Agent::default());
    let reaping = tokio::spawn(reaper::run(Arc::clone(&agent.tools.reaper)));
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))
        .context(|| format!("listening on vsock port {AGENT_PORT}"))?;
    let times = ReadyTimes { init: micros(init), listening: micros(clock::since_start()) };
    tokio::spawn(tell_ready(times));
    let service = AgentServer::new(Service(agent))
        .max_decoding_message_size(AGENT_MAX_MESSAGE)
        .max_encoding_message_size(AGENT_MAX_MESSAGE);
    let server = Server::builder().add_service(service).serve_with_incoming(from_host(listener));
    tokio::select! {
        served = server => {
            Err(Error::Internal(format!("the server has ended: {}", served.err().map_or("no error".into(), |e| e.to_string()))))
        }
        reaped = reaping => match reaped {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::Internal("the reaper has ended".into())),
        },
    }
}

/// The connection itself is the message, [`READY_PORT`]. A host that does not wait for it has no listener. What else is to
/// be done for the guest is done after that.
async fn tell_ready(times: ReadyTimes) {
    match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)).await {
        // A host that does not want to know them has closed it.
        Ok(mut stream) => drop(stream.write_all(&times.to_bytes()).await),
        Err(e) => tracing::warn!("the host does not listen on vsock port {READY_PORT}: {e}"),
    }
    std::thread::spawn(boot::settle);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The host's connections. Containers can reach vsock as well, through the loopback CID or their own: theirs are
/// dropped.
fn from_host(listener: VsockListener) -> impl Stream<Item = io::Result<Connection>> {
    listener.incoming().filter_map(async |connection| match connection {
        Ok(stream) => match stream.peer_addr() {
            Ok(peer) if peer.cid() == VMADDR_CID_HOST => Some(Ok(Connection(stream))),
            _ => None,
        },
        // One connection's failure, or too many open files: the next may do.
        Err(e) => {
            tracing::warn!("accepting a connection: {e}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            None
        }
    })
}
