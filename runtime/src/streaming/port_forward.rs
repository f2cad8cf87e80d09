//! Port-forward: connections of the client to ports of a pod.

use std::sync::Arc;

use bytes::Bytes;
use husk_proto::cri;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::port_streams::{PAIR_LIMIT, Pair, Pairs};
use super::spdy::Connection;
use super::streams::{Input, Output};
use super::websocket::channels::Channels;
use crate::error::Error;
use crate::node::Node;

/// The most streams of one client: two for each connection.
pub const MAX_STREAMS: usize = 512;

/// Forwards over SPDY until the client goes.
pub async fn run(node: &Arc<Node>, request: &cri::PortForwardRequest, connection: &Connection) {
    let mut pairs = Pairs::default();
    // Dropped with the connection, it ends what is forwarded.
    let mut forwarded = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = forwarded.join_next() => continue,
            () = tokio::time::sleep(PAIR_LIMIT) => {
                pairs.forget_old();
                continue;
            }
        };
        let Some(Pair { port, data, error }) = pairs.add(stream) else { continue };
        let (node, sandbox) = (node.clone(), request.pod_sandbox_id.clone());
        let allowed = request.port.is_empty() || request.port.contains(&port.into());
        let forwarding = async move {
            let (input, output) = (Input::Spdy(data.clone()), Output::Spdy(data));
            let outcome = match allowed {
                true => forward(&node, &sandbox, port, input, &output).await,
                false => Err(Error::Denied(format!("port {port} was not asked for"))),
            };
            if let Err(e) = outcome {
                tracing::debug!(port, "port-forward: {e}");
                let _ = error.write(e.to_string().into()).await;
            }
            output.finish().await;
            error.finish().await;
        };
        forwarded.spawn(forwarding.in_current_span());
    }
}

/// The channels of one port.
pub struct PortChannels {
    port: u16,
    input: Input,
    output: Output,
    error: Output,
}

/// Two channels for each port: `2i` for data, `2i + 1` for errors.
pub fn open_channels(channels: &mut Channels, ports: &[i32]) -> Vec<PortChannels> {
    let numbers = (0..=u8::MAX).step_by(2);
    let ports = ports.iter().filter_map(|port| u16::try_from(*port).ok());
    ports
        .zip(numbers)
        .map(|(port, number)| PortChannels {
            port,
            input: Input::Channel(channels.input(number)),
            output: Output::Channel(channels.output(number)),
            error: Output::Channel(channels.output(number + 1)),
        })
        .collect()
}

/// Forwards over channels, one connection a port, until all are closed.
pub async fn run_channels(node: &Arc<Node>, sandbox: &str, ports: Vec<PortChannels>) {
    let mut forwarded = JoinSet::new();
    for PortChannels { port, input, output, error } in ports {
        let (node, sandbox) = (node.clone(), sandbox.to_owned());
        forwarded.spawn(async move {
            // Each channel begins with its port.
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            for channel in [&output, &error] {
                if channel.write(number.clone()).await.is_err() {
                    return;
                }
            }
            if let Err(e) = forward(&node, &sandbox, port, input, &output).await {
                let _ = error.write(e.to_string().into()).await;
            }
        });
    }
    while forwarded.join_next().await.is_some() {}
}

/// Carries one connection.
async fn forward(
    node: &Arc<Node>,
    sandbox: &str,
    port: u16,
    mut input: Input,
    output: &Output,
) -> Result<(), Error> {
    let (sender, mut receiver) = node.connect_port(sandbox, port).await?;
    let outward = async {
        while let Some(data) = input.read().await {
            if sender.send(data).await.is_err() {
                return input.discard().await;
            }
        }
        // Dropped, it closes its side of the connection.
        drop(sender);
    };
    let inward = async {
        while let Some(data) = receiver.receive().await? {
            if output.write(data).await.is_err() {
                break;
            }
        }
        output.finish().await;
        Ok::<(), Error>(())
    };
    let ((), received) = tokio::join!(outward, inward);
    received
}
