//! The end of what serves a pod's volumes.

use std::sync::Arc;
use std::time::Duration;

use crate::node::{Node, Pod};
use crate::store::Phase;
use crate::vm::Vm;
use crate::volume::{self, End};

/// How much later than its volumes' server a VM may end for both to have ended together.
const TOGETHER: Duration = Duration::from_secs(2);

impl Node {
    /// Sees the end of what serves a pod's volumes, and tells of it when the pod goes on without them.
    pub(crate) fn watch_volumes(self: &Arc<Self>, pod: Arc<Pod>, vm: Arc<Vm>, end: End) {
        let node = self.clone();
        tokio::spawn(async move {
            let how = end.await;
            // The server ends with its VM.
            if tokio::time::timeout(TOGETHER, vm.process.gone()).await.is_err() {
                node.volumes_lost(&pod, &how);
            }
        });
    }

    /// Tells in the log, and where a ready pod is described, that nothing serves its volumes any more.
    pub(super) fn volumes_lost(&self, pod: &Pod, how: &str) {
        if pod.record().phase() != Phase::Running {
            return;
        }
        let said = volume::last_words(&self.pod_dir(&pod.id));
        let why = format!("the pod's volumes are gone: virtiofsd ended ({how}); it said last: {said:?}");
        tracing::warn!(sandbox = pod.id, "{why}");
        let noted = self.update_pod(pod, |record| {
            if record.phase() == Phase::Running {
                record.message = why;
            }
        });
        if let Err(e) = noted {
            tracing::error!(sandbox = pod.id, "cannot record the end of the pod's volumes: {e}");
        }
    }
}
