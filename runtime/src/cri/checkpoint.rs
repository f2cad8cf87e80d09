//! CheckpointContainer, CheckpointPod, RestorePod: refused, with what can be done instead.

use husk_proto::cri;

use crate::error::{Error, Result};
use crate::node::Node;

/// Why, and what to do.
const REASON: &str = "the memory of a pod's VM cannot be saved and loaded yet; keep what must last in a volume, or run \
                      the pod with a RuntimeClass whose runtime makes checkpoints";

/// Refuses to checkpoint a container.
pub fn container(node: &Node, request: &cri::CheckpointContainerRequest) -> Result<()> {
    let container = node.container(&request.container_id)?;
    Err(Error::Unsupported(format!("no checkpoint of container {} can be made: {REASON}", container.id)))
}

/// Refuses to checkpoint a pod.
pub fn pod(node: &Node, request: &cri::CheckpointPodRequest) -> Result<()> {
    let pod = node.pod(&request.pod_sandbox_id)?;
    for id in &request.container_ids {
        node.container(id)?;
    }
    Err(Error::Unsupported(format!("no checkpoint of sandbox {} can be made: {REASON}", pod.id)))
}

/// Refuses to restore a pod.
pub fn restore(node: &Node, request: &cri::RestorePodRequest) -> Result<()> {
    node.config.handler(&request.runtime_handler)?;
    let path: String = request.checkpoint_path.chars().take(200).collect();
    Err(Error::Unsupported(format!("no pod can be restored from {path:?}: {REASON}")))
}
