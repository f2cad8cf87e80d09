//! RemoveContainer.

use std::sync::Arc;

use husk_failpoint::reach;
use husk_proto::agent;

use crate::error::{Error, Result};
use crate::guest;
use crate::node::Node;
use crate::store::Phase;

impl Node {
    /// Removes a container, killing it if it runs. An unknown id is not an error (CRI: idempotent).
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.stop_container(&container.id, 0).await?;
        let _changing = container.changing.lock().await;
        self.update_container(&container, |record| record.phase = Phase::Removing.into())?;
        let pod = self.pod(&container.record().sandbox_id).ok();
        let live = match &pod {
            Some(pod) => pod.live().await.ok(),
            None => None,
        };
        if let Some(live) = &live {
            let request = guest::request(agent::DeleteContainerRequest { id: container.id.clone() });
            guest::call(live.guest.clone().delete_container(request))
                .await
                .map_err(|status| guest::refusal("the guest could not delete the container", status))?;
            reach(format_args!("deleted a container in the guest"));
            live.volumes.lock().await.remove(&container.id)?;
            self.release_media(live, &container).await;
            reach(format_args!("took back a container's disks"));
        }
        let _ = std::fs::remove_file(self.log_journal(&container.record().sandbox_id, &container.id));
        self.forget_container(&container.id)?;
        if let (Some(pod), Some(live)) = (&pod, &live) {
            self.fit(pod, live).await;
        }
        Ok(())
    }
}
