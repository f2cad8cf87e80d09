//! StopPodSandbox.

use std::sync::Arc;

use super::tear_down;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::store::Phase;

impl Node {
    /// Stops a pod and gives its network back. An unknown id is not an error (CRI: idempotent).
    pub async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let _changing = pod.changing.lock().await;
        // Written first, so that the VM's end is not taken for an accident.
        self.update_pod(&pod, |record| record.phase = Phase::Stopped.into())?;
        tear_down(self, &pod).await
    }
}
