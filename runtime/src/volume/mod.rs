//! The pod's volumes: what kubelet has on the host, shown to the guest.
//!
//! A pod has one directory, shared by one `virtiofsd`. Each volume of a container is a mount of its own below
//! it, `CONTAINER/NUMBER`, with the propagation and the read-only flag that was asked for, so that both hold on
//! the host's side, whatever the guest does.

mod mounts;
mod request;
mod server;
mod sys;

use std::path::{Path, PathBuf};

use husk_proto::cri;

pub use request::{Volume, requested};

use crate::cgroup::Cgroups;
use crate::config::VolumeConfig;
use crate::error::{Error, Result};
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

    /// Those that an earlier daemon has left.
    pub fn found(pod_dir: &Path) -> Self {
        let dir = dir(pod_dir);
        let served = server::is_there(&dir);
        Self { dir, served }
    }

    /// Makes volumes visible below the container's directory of the share, the server started with the
    /// first, in the pod's cgroup.
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
    ) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        mounts::prepare(&self.dir)?;
        if !self.served {
            let pod_dir = self.dir.parent().unwrap_or(&self.dir);
            let connection = server::start(&config.virtiofsd, &self.dir, cgroups.door(pod_dir)?)?;
            vm.attach_fs(connection).await?;
            self.served = true;
        }
        let dir = self.dir.join(container);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("make", &dir, e))?;
        let mut numbered = volumes.iter().enumerate();
        let mounted =
            numbered.try_for_each(|(number, volume)| mounts::add(&dir.join(number.to_string()), volume));
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
        mounts::remove_below(&self.dir.join(container))
    }
}

/// Ends what serves the pod whose files are in `pod_dir`, and unmounts all of its volumes. To be done before
/// the directory is removed: what is mounted there is not the pod's to delete.
///
/// # Errors
/// What the system says; the directory must stay then.
pub fn tear_down(pod_dir: &Path) -> Result<()> {
    let dir = dir(pod_dir);
    if !dir.exists() {
        return Ok(());
    }
    server::stop(&dir);
    mounts::remove_below(&dir)
}

fn dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes")
}

/// How the agent is told of volume `number` of a container.
pub fn source(container: &str, number: usize) -> String {
    format!("{}{container}/{number}", husk_proto::VOLUME_SOURCE)
}

/// What runtimes are asked about volumes (CRI: `RuntimeHandlerFeatures`).
pub fn features() -> cri::RuntimeHandlerFeatures {
    cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, ..Default::default() }
}
