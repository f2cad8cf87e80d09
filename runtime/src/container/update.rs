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
        resources::merge(&mut all, limits);
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
