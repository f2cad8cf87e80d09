//! UpdateContainerResources.

use std::sync::Arc;

use husk_proto::{agent, cri};

use super::resources;
use crate::error::{Error, Result};
use crate::guest;
use crate::node::{Container, Node};
use crate::sandbox::Beyond;
use crate::store::Phase;

impl Node {
    /// Changes limits of a container that is created or runs; what the request leaves at zero stays. The pod's VM grows
    /// before, and shrinks after.
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
        let first = record.config.and_then(|config| config.linux?.resources).unwrap_or_default();
        let mut all = first.clone();
        resources::merge(&mut all, limits);
        let oci_resources = resources::oci(&all)?.to_string().into_bytes();
        let pod = self.pod(&record.sandbox_id)?;
        let live = pod.live().await?;
        self.make_room(&pod, &live, Some((&container.id, &all)), Beyond::Refused).await?;
        let request = agent::UpdateContainerRequest { id: container.id.clone(), oci_resources };
        let answer = guest::call(live.guest.clone().update_container(guest::request(request))).await;
        let updated = answer
            .map_err(|status| guest::refusal("the guest could not change the limits", status))
            .and_then(|_| self.note_limits(&container, first, all));
        self.fit(&pod, &live).await;
        updated
    }

    fn note_limits(
        &self,
        container: &Container,
        first: cri::LinuxContainerResources,
        now: cri::LinuxContainerResources,
    ) -> Result<()> {
        self.update_container(container, |record| {
            record.config.get_or_insert_default().linux.get_or_insert_default().resources = Some(now);
            record.first_limits.get_or_insert(first);
        })
    }
}
