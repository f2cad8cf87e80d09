//! UpdateContainer.

use std::fs;

use oci_spec::runtime::{LinuxResources, Spec};

use super::{Container, Stage};
use crate::error::{Context, Error, Result};
use crate::paths;

impl Container {
    /// Sets the limits that the resources name, now if it runs and at its start otherwise.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        let resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|e| Error::Invalid(format!("the OCI resources cannot be read: {e}")))?;
        // A start must not come between.
        let stage = self.stage.lock().await;
        if matches!(*stage, Stage::Created) {
            return amend(&self.id, &resources);
        }
        self.cgroup.update(&resources)
    }
}

/// Changes the spec that the container will be started by.
fn amend(id: &str, new: &LinuxResources) -> Result<()> {
    let path = paths::bundle(id).join("config.json");
    let mut spec =
        Spec::load(&path).map_err(|e| Error::Internal(format!("reading {}: {e}", path.display())))?;
    if let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) {
        if new.memory().is_some() {
            resources.set_memory(*new.memory());
        }
        if new.cpu().is_some() {
            resources.set_cpu(new.cpu().clone());
        }
        if new.pids().is_some() {
            resources.set_pids(*new.pids());
        }
    }
    let json =
        serde_json::to_vec(&spec).map_err(|e| Error::Internal(format!("writing the OCI spec: {e}")))?;
    fs::write(&path, json).context(|| format!("writing {}", path.display()))
}
