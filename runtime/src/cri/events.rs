//! GetContainerEvents.

use std::sync::Arc;

use futures_util::stream;
use husk_proto::cri;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::view;
use crate::events::{Event, Kind, Listening};

/// What a listener is told, until it goes, the daemon stops, or it falls behind.
pub fn stream(listening: Listening) -> BoxStream<cri::ContainerEventResponse> {
    Box::pin(stream::unfold(Some(listening), |listening| async {
        let mut listening = listening?;
        match listening.next().await {
            Ok(Some(event)) => Some((Ok(message(event)), Some(listening))),
            Ok(None) => None,
            Err(e) => Some((Err(Status::from(e)), None)),
        }
    }))
}

/// Deleted containers are in the list no more; a deleted pod's status is its last one.
fn message(event: Arc<Event>) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Kind::Started => cri::ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: event.sandbox.clone().map(view::sandbox_status),
        containers_statuses: event.containers.iter().cloned().map(view::container_status).collect(),
    }
}
