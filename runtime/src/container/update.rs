//! UpdateContainerResources.

use std::sync::Arc;

use husk_failpoint::reach;
use husk_proto::{agent, cri};

use super::resources;
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
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
        let updated = async {
            self.update_container(&container, |record| record.limits_changing = true)?;
            tell_limits(&live.guest, &container, oci_resources).await?;
            reach(format_args!("changed a container's limits in the guest"));
            self.note_limits(&container, first, all)
        }
        .await;
        self.settle_limits(&container).await;
        self.fit(&pod, &live).await;
        updated
    }

    /// Undoes what was begun of a change of limits, by this daemon or an earlier one: what is recorded is what holds. What
    /// a guest does not take now, the next daemon tells it again.
    pub async fn settle_limits(&self, container: &Container) {
        let record = container.record();
        if !record.limits_changing {
            return;
        }
        let settled = async {
            let limits = record.config.and_then(|config| config.linux?.resources).unwrap_or_default();
            let live = self.pod(&record.sandbox_id)?.live().await?;
            let all = resources::oci_in_full(&limits)?.to_string().into_bytes();
            tell_limits(&live.guest, container, all).await?;
            self.update_container(container, |record| record.limits_changing = false)
        };
        if let Err(e) = settled.await {
            tracing::warn!(container = container.id, "its limits may not be what is told of them: {e}");
        }
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
            record.limits_changing = false;
        })?;
        reach(format_args!("recorded a container's limits"));
        Ok(())
    }
}

async fn tell_limits(guest: &Guest, container: &Container, oci_resources: Vec<u8>) -> Result<()> {
    let request = agent::UpdateContainerRequest { id: container.id.clone(), oci_resources };
    let answer = guest::call(guest.clone().update_container(guest::request(request))).await;
    answer.map(drop).map_err(|status| guest::refusal("the guest could not change the limits", status))
}
