//! A connection to a port of the pod's loopback, through its agent.

use bytes::Bytes;
use husk_failpoint::reach;
use husk_proto::agent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Guest, refusal};
use crate::error::{Error, Result};

/// Messages that wait to be sent.
const QUEUE: usize = 4;

/// The sending side; dropped, it is closed.
pub struct PortSender(mpsc::Sender<agent::PortForwardRequest>);

/// The receiving side.
pub struct PortReceiver(tonic::Streaming<agent::PortForwardResponse>);

/// Connects.
pub async fn connect_port(mut agent: Guest, port: u16) -> Result<(PortSender, PortReceiver)> {
    let (sender, requests) = mpsc::channel(QUEUE);
    let closed = || Error::Internal("the connection to the agent is closed".into());
    let first = agent::PortForwardRequest { port: port.into(), data: Vec::new() };
    sender.send(first).await.map_err(|_| closed())?;
    let received = agent
        .port_forward(tonic::Request::new(ReceiverStream::new(requests)))
        .await
        .map_err(|status| refusal("the pod", status))?;
    reach(format_args!("connected to a port of a pod"));
    Ok((PortSender(sender), PortReceiver(received.into_inner())))
}

impl PortSender {
    /// Sends as fast as the pod takes it; an error when it takes no more.
    pub async fn send(&self, data: Bytes) -> Result<()> {
        let request = agent::PortForwardRequest { port: 0, data: data.into() };
        self.0.send(request).await.map_err(|_| Error::State("the pod takes no more".into()))
    }
}

impl PortReceiver {
    /// What comes next; `None` at the end.
    pub async fn receive(&mut self) -> Result<Option<Bytes>> {
        let response = self.0.message().await.map_err(|status| refusal("the pod", status))?;
        Ok(response.map(|response| response.data.into()))
    }
}
