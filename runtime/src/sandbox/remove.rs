//! RemovePodSandbox.

use std::sync::Arc;

use super::tear_down;
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::node::Node;
use crate::store::Phase;

impl Node {
    /// Removes a pod and its containers, by force. An unknown id is not an error (CRI: idempotent).
    pub async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let _changing = pod.changing.lock().await;
        self.update_pod(&pod, |record| record.phase = Phase::Removing.into())?;
        tear_down(self, &pod).await?;
        self.forget_pod(&pod.id)?;
        self.tell_of_pod(&pod, Kind::Deleted);
        Ok(())
    }
}
