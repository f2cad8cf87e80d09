//! The life of a pod: one file an operation.

mod recover;
mod remove;
mod resolv;
mod run;
mod stop;

use std::sync::Arc;

use crate::error::Result;
use crate::node::{Node, Pod, lock};
use crate::store::Phase;

/// Ends what a pod has: containers are marked exited, then the VM, its network, its files. Each step may be
/// done already.
async fn tear_down(node: &Arc<Node>, pod: &Pod) -> Result<()> {
    pod.live.write().await.take();
    let vm = lock(&pod.vm).take();
    if let Some(vm) = vm {
        vm.stop().await;
    }
    for container in node.containers_of(&pod.id) {
        if container.record().phase() == Phase::Running {
            node.record_exit(&container, 137, "Error", "the pod was stopped")?;
        }
    }
    if let Some(network) = &node.network {
        network.teardown(&pod.id).await?;
    }
    for result in
        [std::fs::remove_dir_all(node.pod_dir(&pod.id)), std::fs::remove_file(node.scratch_path(&pod.id))]
    {
        match result {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(crate::error::Error::Internal(format!("cannot remove files of {}: {e}", pod.id)));
            }
            _ => {}
        }
    }
    Ok(())
}
