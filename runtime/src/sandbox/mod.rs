//! The life of a pod: one file an operation.

mod health;
pub mod namespaces;
mod port;
mod recover;
mod remove;
mod resize;
mod resolv;
mod run;
mod scratch;
mod size;
mod start;
mod stop;
mod update;
mod volumes;

pub use resize::Beyond;
pub use size::Size;

use std::path::Path;
use std::sync::Arc;

use husk_failpoint::reach;

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::node::{Node, Pod, lock};
use crate::observe::step;
use crate::store::Phase;
use crate::volume;

/// What a pod needs on the host beside its guest's memory, MiB: the VMM, virtiofsd, and the kernel's for both.
pub const HOST_MIB: u32 = 32;

/// Ends what a pod has: containers are marked exited, then the VM, its network, its cgroup, its files. Each step may be
/// done already.
async fn tear_down(node: &Arc<Node>, pod: &Pod) -> Result<()> {
    pod.live.write().await.take();
    let vm = lock(&pod.vm).take();
    // One that was still on its way up was never started.
    let was_ready = vm.is_some() && pod.record().phase() != Phase::Creating;
    if let Some(vm) = vm {
        step("end the VM", async {
            vm.stop().await;
            Ok(())
        })
        .await?;
        reach(format_args!("ended a sandbox's VM"));
    }
    for container in node.containers_of(&pod.id) {
        if container.record().phase() == Phase::Running {
            node.record_exit(&container, 137, "Error", "the pod was stopped")?;
        }
    }
    if was_ready {
        node.tell_of_pod(pod, Kind::Stopped);
    }
    if let Some(network) = &node.network {
        step("release the network", async { Ok(network.teardown(&pod.id).await?) }).await?;
        reach(format_args!("released a sandbox's network"));
    }
    remove_pod_dir(&node.cgroups, &node.pod_dir(&pod.id)).await?;
    reach(format_args!("removed a sandbox's directory"));
    let scratch = node.scratch_path(&pod.id);
    absent(std::fs::remove_file(&scratch)).map_err(|e| Error::io("remove", &scratch, e))
}

/// Removes the directory of a pod whose VM is gone, and its cgroup. What was mounted there for its volumes is the host's: the
/// directory stays as long as it is.
async fn remove_pod_dir(cgroups: &Cgroups, dir: &Path) -> Result<()> {
    volume::tear_down(dir)?;
    cgroups.remove(dir).await?;
    absent(std::fs::remove_dir_all(dir)).map_err(|e| Error::io("remove", dir, e))
}

/// What is not there is removed.
fn absent(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
