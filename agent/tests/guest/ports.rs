//! Connections to the pod's ports.

use std::time::Duration;

use husk_proto::agent::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::pod::{Pod, refused};

type Connection = (mpsc::Sender<PortForwardRequest>, Streaming<PortForwardResponse>);

async fn connect(pod: &Pod, port: u32) -> Result<Connection, Status> {
    let (sender, requests) = mpsc::channel(4);
    sender.send(PortForwardRequest { port, data: Vec::new() }).await.unwrap();
    let received = pod.agent().port_forward(ReceiverStream::new(requests)).await?.into_inner();
    Ok((sender, received))
}

/// A server that is just starting is waited for.
async fn patiently(pod: &Pod, port: u32) -> Connection {
    for _ in 0..100 {
        if let Ok(connection) = connect(pod, port).await {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody listens on port {port}");
}

async fn to_the_end(mut received: Streaming<PortForwardResponse>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(response) = received.message().await.unwrap() {
        all.extend(response.data);
    }
    all
}

pub async fn both_ways(pod: &Pod) {
    let id = pod.started("nc -ll -p 7001 -e cat").await;
    let (sender, received) = patiently(pod, 7001).await;
    let sending = async move {
        for _ in 0..40 {
            sender.send(PortForwardRequest { port: 0, data: vec![7; 50_000] }).await.unwrap();
        }
        // The end of the requests closes this side alone.
    };
    let ((), back) = tokio::join!(sending, to_the_end(received));
    assert!(back == vec![7; 2_000_000], "{} bytes came back", back.len());
    pod.delete(&id).await;
}

pub async fn nobody_listens(pod: &Pod) {
    refused(connect(pod, 7999).await.map(drop), Code::FailedPrecondition, "7999");
    for port in [0, 65536] {
        refused(connect(pod, port).await.map(drop), Code::InvalidArgument, &port.to_string());
    }
    let nothing = tokio_stream::empty::<PortForwardRequest>();
    refused(pod.agent().port_forward(nothing).await.map(drop), Code::InvalidArgument, "port");
}
