//! The pod's volumes: what kubelet has on the host, shown to the guest.
//!
//! A pod has one directory, shared by one `virtiofsd`. Each volume of a container is a mount of its own below
//! it, `CONTAINER/NUMBER`, in the server's mount namespace, with the propagation and the read-only flag that was
//! asked for, so that both hold on the host's side, whatever the guest does.

mod confine;
mod mounts;
mod request;
mod server;
mod sys;
mod user_namespace;

use std::path::{Path, PathBuf};

use husk_failpoint::reach;

pub use request::{Volume, container_path, requested};
pub use server::End;

use crate::cgroup::Cgroups;
use crate::config::VolumeConfig;
use crate::error::Result;
use crate::vm::Vm;

/// One pod's volumes. Held through each change.
pub struct Volumes {
    dir: PathBuf,
    served: bool,
}

impl Volumes {
    /// The volumes of a new pod whose files are in `pod_dir`: none yet.
    pub fn new(pod_dir: &Path) -> Self {
        Self { dir: dir(pod_dir), served: false }
    }

    /// Those that an earlier daemon has left, and the end of what serves them if that is to be waited for.
    ///
    /// # Errors
    /// When it cannot be known whether something serves them.
    pub fn found(pod_dir: &Path) -> Result<(Self, Option<End>)> {
        let dir = dir(pod_dir);
        let end = server::find(&dir)?;
        Ok((Self { dir, served: end.is_some() }, end))
    }

    /// Makes volumes visible below the container's directory of the share, the server started with the
    /// first, in the pod's cgroup; `watch` is called with the end of one that is started.
    ///
    /// # Errors
    /// Nothing is left mounted for the container then.
    pub async fn add(
        &mut self,
        config: &VolumeConfig,
        cgroups: &Cgroups,
        vm: &Vm,
        container: &str,
        volumes: &[Volume],
        watch: impl FnOnce(End),
    ) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        if !self.served {
            mounts::make_share(&self.dir)?;
            reach(format_args!("made the directory of a pod's volumes"));
            let pod_dir = self.dir.parent().unwrap_or(&self.dir);
            let (connection, end) = server::start(&config.virtiofsd, &self.dir, cgroups.door(pod_dir)?)?;
            reach(format_args!("started the server of a pod's volumes"));
            // Answered once the server is in its namespaces.
            vm.attach_fs(connection).await?;
            reach(format_args!("connected the server of a pod's volumes"));
            self.served = true;
            watch(end);
        }
        let mounted = server::mount_namespace(&self.dir)
            .and_then(|namespace| mounts::add(&self.dir, container, volumes, namespace));
        if mounted.is_err() {
            self.remove(container)?;
        }
        mounted
    }

    /// The containers that have volumes.
    pub fn containers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Takes a container's volumes away. It need not have any.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, container: &str) -> Result<()> {
        mounts::remove(&self.dir.join(container))?;
        reach(format_args!("removed a container's volumes"));
        Ok(())
    }
}

/// Ends what serves the pod whose files are in `pod_dir`, and removes the places of its volumes.
///
/// # Errors
/// What the system says; the directory must stay then.
pub fn tear_down(pod_dir: &Path) -> Result<()> {
    let dir = dir(pod_dir);
    if !dir.exists() {
        return Ok(());
    }
    server::stop(&dir)?;
    reach(format_args!("ended the server of a pod's volumes"));
    mounts::remove(&dir)?;
    reach(format_args!("removed the directory of a pod's volumes"));
    Ok(())
}

/// What the server of the pod whose files are in `pod_dir` said last.
pub fn last_words(pod_dir: &Path) -> String {
    server::last_words(&dir(pod_dir))
}

fn dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes")
}

/// How the agent is told of volume `number` of a container.
pub fn source(container: &str, number: usize) -> String {
    format!("{}{container}/{number}", husk_proto::VOLUME_SOURCE)
}
