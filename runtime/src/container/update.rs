//! UpdateContainerResources.

use std::sync::Arc;

use husk_proto::{agent, cri};

use super::resources;
use crate::error::{Error, Result};
use crate::guest;
use crate::node::Node;
use crate::store::Phase;

impl Node {
    /// Changes limits of a container that is created or runs; what the request leaves at zero stays.
    pub async fn update_container_resources(
        self: &Arc<Self>,
        id: &str,
        limits: cri::LinuxContainerResources,
    ) -> Result<()> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        let record = container.record();
        if !matches!(record.phase(), Phase::Created | Phase::Running) {
            return Err(Error::State(format!(
                "container {} is {:?}; only the limits of one that is created or runs can be changed",
                container.id,
                record.phase()
            )));
        }
        // All of them go to the guest, which knows no earlier ones to keep.
        let mut all = record.config.and_then(|config| config.linux?.resources).unwrap_or_default();
        merge(&mut all, limits);
        let oci_resources = resources::oci(&all)?.to_string().into_bytes();
        let live = self.pod(&record.sandbox_id)?.live().await?;
        let request = agent::UpdateContainerRequest { id: container.id.clone(), oci_resources };
        live.guest
            .clone()
            .update_container(guest::request(request))
            .await
            .map_err(|status| guest::refusal("the guest could not change the limits", status))?;
        self.update_container(&container, |record| {
            record.config.get_or_insert_default().linux.get_or_insert_default().resources = Some(all);
        })
    }
}

/// What is named replaces what was.
fn merge(old: &mut cri::LinuxContainerResources, new: cri::LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    for (old, new) in [(&mut old.cpuset_cpus, new.cpuset_cpus), (&mut old.cpuset_mems, new.cpuset_mems)] {
        if !new.is_empty() {
            *old = new;
        }
    }
}
