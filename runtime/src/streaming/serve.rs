//! One upgraded connection: its streams, what is done with them, and its end.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::Transport;
use super::streams::{Input, Output, Streams, Wanted};
use super::websocket::channels::Channels;
use super::websocket::{server, tunnel};
use super::work::Work;
use super::{attach, exec, port_forward, remote_command, spdy};
use crate::node::Node;

/// How long a client may take to close its side after all was said: closed at once, the connection could be reset
/// before the client has read the last of it.
const LINGER: Duration = Duration::from_secs(3);

/// Does the work. A client that goes away ends it.
pub async fn serve<S>(node: &Arc<Node>, work: Work, transport: Transport, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let name = work.name();
    match (work, transport) {
        (Work::PortForward(request), Transport::Spdy) => {
            let (connection, driver) = spdy::connect(stream, port_forward::MAX_STREAMS);
            until_gone(name, driver, port_forward::run(node, &request, &connection)).await;
        }
        (Work::PortForward(request), Transport::Tunnel) => {
            let (inner, carrier) = tunnel::tunnel(server(stream).await);
            let (connection, driver) = spdy::connect(inner, port_forward::MAX_STREAMS);
            let driver = async {
                tokio::select! {
                    carried = carrier => carried.map_err(|e| e.to_string()),
                    driven = driver => driven.map_err(|e| e.to_string()),
                }
            };
            until_gone(name, driver, port_forward::run(node, &request, &connection)).await;
        }
        (Work::PortForward(request), Transport::Channels { .. }) => {
            let mut channels = Channels::new(false);
            let ports = port_forward::open_channels(&mut channels, &request.port);
            let end = channels.end();
            let forwarding = async {
                port_forward::run_channels(node, &request.pod_sandbox_id, ports).await;
                end.finish().await;
            };
            until_gone(name, channels.drive(server(stream).await), forwarding).await;
        }
        (work, Transport::Channels { closable }) => {
            let mut channels = Channels::new(closable);
            let streams = work.wanted().map(|wanted| numbered(&mut channels, wanted));
            let end = channels.end();
            let command = async {
                if let Some(streams) = streams {
                    command(node, work, streams).await;
                }
                end.finish().await;
            };
            until_gone(name, channels.drive(server(stream).await), command).await;
        }
        // A tunnel is for ports alone, which the handshake has seen to.
        (work, Transport::Spdy | Transport::Tunnel) => {
            let (connection, driver) = spdy::connect(stream, remote_command::MAX_STREAMS);
            let command = async {
                if let Some(wanted) = work.wanted()
                    && let Some(streams) = remote_command::gather(&connection, wanted).await
                {
                    command(node, work, streams).await;
                }
                connection.finish().await;
            };
            until_gone(name, driver, command).await;
        }
    }
}

async fn command(node: &Arc<Node>, work: Work, streams: Streams) {
    match work {
        Work::Exec(request) => exec::run(node, request, streams).await,
        Work::Attach(request) => attach::run(node, request, streams).await,
        Work::PortForward(_) => {}
    }
}

/// The channels of Kubernetes' remote commands.
fn numbered(channels: &mut Channels, wanted: Wanted) -> Streams {
    Streams {
        stdin: wanted.stdin.then(|| Input::Channel(channels.input(0))),
        stdout: wanted.stdout.then(|| Output::Channel(channels.output(1))),
        stderr: wanted.stderr.then(|| Output::Channel(channels.output(2))),
        error: Output::Channel(channels.output(3)),
        resize: wanted.tty.then(|| Input::Channel(channels.input(4))),
    }
}

async fn until_gone<E: Display>(
    name: &str,
    driver: impl Future<Output = Result<(), E>>,
    work: impl Future<Output = ()>,
) {
    tokio::pin!(driver);
    tokio::select! {
        gone = &mut driver => match gone {
            Ok(()) => tracing::debug!("{name}: the client has gone"),
            Err(e) => tracing::info!("{name}: the connection is broken: {e}"),
        },
        () = work => {
            let _ = tokio::time::timeout(LINGER, driver).await;
        }
    }
}
