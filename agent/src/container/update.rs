//! UpdateContainer.

use oci_spec::runtime::{LinuxResources, Spec};

use super::{Container, Stage};
use crate::error::{Error, Result};

impl Container {
    /// Sets the limits that the resources name, now if it runs and at its start otherwise.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        let resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|e| Error::Invalid(format!("the OCI resources cannot be read: {e}")))?;
        // A start must not come between.
        let stage = self.stage.lock().await;
        if matches!(*stage, Stage::Created) {
            return self.change_spec(|spec| amend(spec, &resources));
        }
        self.cgroup.update(&resources)
    }
}

/// Changes the limits that a container will be started with.
fn amend(spec: &mut Spec, new: &LinuxResources) {
    let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) else {
        return;
    };
    if new.memory().is_some() {
        resources.set_memory(*new.memory());
    }
    if new.cpu().is_some() {
        resources.set_cpu(new.cpu().clone());
    }
    if new.hugepage_limits().is_some() {
        resources.set_hugepage_limits(new.hugepage_limits().clone());
    }
    if new.pids().is_some() {
        resources.set_pids(*new.pids());
    }
}
