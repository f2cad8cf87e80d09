//! UpdatePodSandboxResources.

use std::sync::Arc;

use husk_proto::cri;

use super::size::Size;
use crate::container::resources;
use crate::error::{Error, Result};
use crate::node::Node;

impl Node {
    /// Takes note of a pod's new limits, which its VM must have room for; what the request leaves at zero stays.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when they are more than the VM was made with.
    pub async fn update_sandbox_resources(
        self: &Arc<Self>,
        id: &str,
        limits: Option<cri::LinuxContainerResources>,
        overhead: Option<cri::LinuxContainerResources>,
    ) -> Result<()> {
        let pod = self.pod(id)?;
        let _changing = pod.changing.lock().await;
        pod.live().await?;
        let record = pod.record();
        let given = Size::given(&record, &self.config.vm);
        let mut config = record.config.unwrap_or_default();
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
        given.check(&config, &self.config.vm)?;
        self.update_pod(&pod, |record| record.config = Some(config))
    }
}
