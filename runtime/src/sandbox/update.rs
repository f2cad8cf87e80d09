//! UpdatePodSandboxResources.

use std::sync::Arc;

use husk_failpoint::reach;
use husk_proto::cri;

use super::resize::Beyond;
use crate::container::resources;
use crate::error::{Error, Result};
use crate::node::Node;

impl Node {
    /// Takes note of a pod's new limits, to which its VM grows or shrinks; what the request leaves at zero stays.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when they are more than the VM can have.
    pub async fn update_sandbox_resources(
        self: &Arc<Self>,
        id: &str,
        limits: Option<cri::LinuxContainerResources>,
        overhead: Option<cri::LinuxContainerResources>,
    ) -> Result<()> {
        let pod = self.pod(id)?;
        let _changing = pod.changing.lock().await;
        let live = pod.live().await?;
        let before = pod.record();
        let mut config = before.config.clone().unwrap_or_default();
        let linux = config.linux.get_or_insert_default();
        for (old, new) in [(&mut linux.resources, limits), (&mut linux.overhead, overhead)] {
            let Some(new) = new else { continue };
            for (name, value) in
                [("cpu_period", new.cpu_period), ("memory_limit_in_bytes", new.memory_limit_in_bytes)]
            {
                if value < 0 {
                    return Err(Error::Invalid(format!("{name} is {value}: it must not be negative")));
                }
            }
            resources::merge(old.get_or_insert_default(), new);
        }
        let wanted = self.wanted_by(&pod, &config, true, None);
        self.grow(&pod, &live, wanted, Beyond::Refused).await?;
        self.update_pod(&pod, |record| {
            record.config = Some(config);
            record.limits_set = true;
        })?;
        reach(format_args!("recorded a pod's limits"));
        self.fit(&pod, &live).await;
        Ok(())
    }
}
