//! Attach: a running container's own streams, from now on.

use std::sync::Arc;

use husk_proto::cri;

use super::exec::{destination, end};
use super::feed::feed;
use super::status;
use super::streams::Streams;
use crate::container::{Attachment, attach};
use crate::error::{Error, Result};
use crate::node::Node;

/// Attaches until the container's output ends. Dropped before, it leaves the container as it is, but for a standard
/// input that is for one client alone.
pub async fn run(node: &Arc<Node>, request: cri::AttachRequest, mut streams: Streams) {
    let status = match follow(node, &request, &mut streams).await {
        Ok(()) => status::exited(0),
        Err(e) => status::failed(&e),
    };
    end(&streams, status).await;
}

async fn follow(node: &Arc<Node>, request: &cri::AttachRequest, streams: &mut Streams) -> Result<()> {
    let Attachment { mut output, input, once } = attach(node, &request.container_id, request.stdin).await?;
    let (mut stdin, mut resize) = (streams.stdin.take(), streams.resize.take());
    tokio::select! {
        copied = async {
            while let Some((stream, data)) = output.next().await? {
                if let Some(destination) = destination(streams, stream)
                    && destination.write(data).await.is_err()
                {
                    break;
                }
            }
            Ok::<(), Error>(())
        } => copied,
        never = feed(&input, &mut stdin, &mut resize, once.is_some()) => match never {},
    }
}
